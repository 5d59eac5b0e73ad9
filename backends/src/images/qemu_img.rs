//! `qemu-img`, on files that nobody has looked at yet: under limits of time and memory, and with its answer bounded.
use super::manifest::{DiskFormat, MAX_VIRTUAL_SIZE};
use protocol::{ErrorCode, Fault};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A sane header is read in milliseconds; a hostile one has made qemu-img eat gigabytes and minutes
/// (CVE-2015-5162), hence 1 GiB of address space and 30 s of CPU.
const LIMITED: &str = "ulimit -v 1048576 && ulimit -t 30 && exec qemu-img \"$@\"";
const INFO_TIMEOUT: Duration = Duration::from_secs(40);
#[cfg(feature = "libvirt")]
/// Creating an overlay writes 200 KB, but a busy disk may sync for long.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ANSWER: u64 = 1 << 20;
const HINT: &str = "install qemu-utils (Debian, Ubuntu) or qemu-img (Fedora)";

#[derive(Debug, PartialEq, Eq)]
pub struct DiskInfo {
    pub format: DiskFormat,
    pub virtual_size: u64,
}

/// Raw or qcow2, standing alone: whatever points to another file of the host is refused.
pub fn inspect(disk: &Path) -> Result<DiskInfo, Fault> {
    let shown = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut command = Command::new("sh");
    command.args(["-c", LIMITED, "qemu-img", "info", "--output=json", "-U"]).arg(disk);
    let answer = run(command, INFO_TIMEOUT)
        .map_err(|why| why.fault(ErrorCode::InvalidRequest, &format!("'{shown}' cannot be read as a disk image")))?;
    judge(&answer, &shown)
}

pub(crate) fn judge(answer: &str, shown: &str) -> Result<DiskInfo, Fault> {
    let info: Value = serde_json::from_str(answer)
        .map_err(|error| Fault::internal(format!("qemu-img's answer is not JSON: {error}")))?;
    let refuse = |why: &str| {
        Err(Fault::invalid(format!("'{shown}' {why}"))
            .hint("give a raw or qcow2 image that stands alone: qemu-img convert -O qcow2 OLD NEW"))
    };
    let format = match info["format"].as_str() {
        Some("raw") => DiskFormat::Raw,
        Some("qcow2") => DiskFormat::Qcow2,
        other => return refuse(&format!("is of the format '{}'", other.unwrap_or("unknown"))),
    };
    let data = &info["format-specific"]["data"];
    if ["backing-filename", "full-backing-filename", "backing-filename-format"].iter().any(|key| !info[*key].is_null())
    {
        return refuse("has a backing file");
    }
    if !data["data-file"].is_null() || !data["data-file-raw"].is_null() && data["data-file-raw"] != false {
        return refuse("has an external data file");
    }
    if info["encrypted"] == true || !data["encrypt"].is_null() {
        return refuse("is encrypted");
    }
    if data["corrupt"] == true {
        return refuse("is marked corrupt");
    }
    match info["virtual-size"].as_u64() {
        Some(size) if size > 0 && size <= MAX_VIRTUAL_SIZE => Ok(DiskInfo { format, virtual_size: size }),
        Some(size) => refuse(&format!("has a virtual size of {size} bytes, beyond what is taken")),
        None => refuse("has no virtual size"),
    }
}

#[cfg(feature = "libvirt")]
/// A qcow2 overlay on a base that is never written.
pub fn create_overlay(overlay: &Path, base: &Path, base_format: DiskFormat, bytes: u64) -> Result<(), Fault> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", base_format.as_str(), "-b"]).arg(base);
    command.arg(overlay).arg(bytes.to_string());
    run(command, CREATE_TIMEOUT).map(drop).map_err(|why| why.fault(ErrorCode::CreateFailed, "the disk was not made"))
}

#[cfg(feature = "libvirt")]
/// One that stands on another keeps what it has; the rest is empty.
pub fn grow_overlay(overlay: &Path, bytes: u64) -> Result<(), Fault> {
    let mut command = Command::new("qemu-img");
    command.args(["resize", "-q", "-f", "qcow2"]).arg(overlay).arg(bytes.to_string());
    run(command, CREATE_TIMEOUT).map(drop).map_err(|why| why.fault(ErrorCode::Internal, "the disk was not grown"))
}

/// For `doctor`.
pub fn version() -> Result<String, Fault> {
    let mut command = Command::new("qemu-img");
    command.arg("--version");
    let answer = run(command, INFO_TIMEOUT).map_err(|why| why.fault(ErrorCode::Internal, "qemu-img does not run"))?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[derive(Debug)]
pub(crate) enum RunError {
    Missing,
    Failed(String),
    TooSlow(Duration),
    Io(std::io::Error),
}

impl RunError {
    fn fault(self, code: ErrorCode, what: &str) -> Fault {
        match self {
            RunError::Missing => Fault::new(ErrorCode::Unavailable, format!("{what}: qemu-img is missing")).hint(HINT),
            RunError::Failed(stderr) if stderr.contains("No space left") => {
                Fault::new(ErrorCode::Exhausted, format!("{what}: the disk is full")).details(stderr)
            }
            // 127 is the shell's own "not found".
            RunError::Failed(stderr) if stderr.contains("not found") && stderr.contains("qemu-img") => {
                Fault::new(ErrorCode::Unavailable, format!("{what}: qemu-img is missing")).hint(HINT)
            }
            RunError::Failed(stderr) => Fault::new(code, what).details(stderr),
            RunError::TooSlow(limit) => Fault::new(code, format!("{what}: no end after {} s", limit.as_secs())),
            RunError::Io(error) => Fault::new(code, format!("{what}: {error}")),
        }
    }
}

/// Runs a tool to its end, within a time and with its output bounded.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<String, RunError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => RunError::Missing,
        _ => RunError::Io(error),
    })?;
    let out = child.stdout.take().map(read_bounded);
    let err = child.stderr.take().map(read_bounded);
    let status = wait_within(&mut child, limit);
    let out = out.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let err = err.and_then(|thread| thread.join().ok()).unwrap_or_default();
    match status? {
        status if status.success() => Ok(out),
        status => Err(RunError::Failed(format!("{} ({status})", err.trim()))),
    }
}

fn read_bounded(pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut bounded = pipe.take(MAX_ANSWER);
        bounded.read_to_end(&mut text).ok();
        // The rest is read and dropped, so that the tool does not wait on a full pipe.
        std::io::copy(&mut bounded.into_inner(), &mut std::io::sink()).ok();
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn wait_within(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus, RunError> {
    let deadline = Instant::now() + limit;
    // An overlay takes 10 ms: begin with short naps.
    let mut nap = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(nap),
            Ok(None) => {
                child.kill().ok();
                child.wait().ok();
                return Err(RunError::TooSlow(limit));
            }
            Err(error) => return Err(RunError::Io(error)),
        }
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_elsewhere_is_refused() {
        let plain = r#"{"format":"qcow2","virtual-size":67108864,"format-specific":{"type":"qcow2","data":{"compat":"1.1","corrupt":false}}}"#;
        assert_eq!(judge(plain, "d").unwrap(), DiskInfo { format: DiskFormat::Qcow2, virtual_size: 64 << 20 });
        for (bad, why) in [
            (r#"{"format":"qcow2","virtual-size":1,"backing-filename":"/etc/shadow"}"#, "backing"),
            (
                r#"{"format":"qcow2","virtual-size":1,"format-specific":{"data":{"data-file":"/etc/shadow"}}}"#,
                "data file",
            ),
            (r#"{"format":"qcow2","virtual-size":1,"encrypted":true}"#, "encrypted"),
            (r#"{"format":"qcow2","virtual-size":1,"format-specific":{"data":{"corrupt":true}}}"#, "corrupt"),
            (r#"{"format":"vmdk","virtual-size":1}"#, "vmdk"),
            (r#"{"format":"qcow2"}"#, "virtual size"),
            (r#"{"format":"raw","virtual-size":9007199254740991}"#, "beyond"),
        ] {
            let fault = judge(bad, "d").unwrap_err();
            assert!(fault.message.contains(why), "{fault}");
        }
    }

    #[test]
    fn a_tool_that_hangs_or_talks_without_end_is_bounded() {
        let mut slow = Command::new("sleep");
        slow.arg("30");
        assert!(matches!(run(slow, Duration::from_millis(50)), Err(RunError::TooSlow(_))));
        let mut loud = Command::new("sh");
        loud.args(["-c", "head -c 5000000 /dev/zero"]);
        assert_eq!(run(loud, Duration::from_secs(20)).unwrap().len() as u64, MAX_ANSWER);
        assert!(matches!(run(Command::new("no-such-tool-here"), Duration::from_secs(1)), Err(RunError::Missing)));
    }
}
