//! The NoCloud seed: an ISO with the volume id CIDATA that cloud-init reads at the first boot.
//! <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>
//!
//! The tenant's user-data is kept as it is, and ours follows in the same MIME archive: cloud-init reads the parts in
//! order and ours replaces what it names, so hostname, keys and host key are those of the lease. A guest without
//! cloud-init (the tiny one has no YAML parser) finds the same in plain files under `golemnode/`.
use crate::images;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::names::{GuestUser, LeaseId};
use protocol::seed::Seed;
use protocol::{ErrorCode, Fault};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Three files of a few KB take 30 ms; a busy disk may sync for long.
const ISO_TIMEOUT: Duration = Duration::from_secs(30);
/// All take mkisofs's options; the package's name is what a user can install.
const ISO_TOOLS: [&str; 3] = ["genisoimage", "mkisofs", "xorrisofs"];
const NO_ISO_TOOL: &str = "install genisoimage (Debian, Ubuntu) or xorriso";
/// Divides the parts of the archive; no part has it, since what is ours is known and the tenant's is encoded.
const BOUNDARY: &str = "==golemnode==";

/// A tenant's user-data is looked at before anything is made: what would fight with the lease is refused, and what
/// cloud-init would not take is said now instead of in a log that nobody reads.
pub fn check_user_data(text: &str) -> Result<(), Fault> {
    kind_of(text).map(drop)
}

/// The MIME type under which cloud-init takes a user-data of this first line.
fn kind_of(text: &str) -> Result<&'static str, Fault> {
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first.starts_with("#!") {
        return Ok("text/x-shellscript");
    }
    match first {
        "#cloud-config" => check_cloud_config(text).map(|()| "text/cloud-config"),
        "#cloud-boothook" => Ok("text/cloud-boothook"),
        "#include" | "#include-once" => Err(Fault::invalid("user-data that includes a URL cannot be used")
            .hint("the guest has no egress: put the content itself into the file")),
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(Fault::invalid(format!("user-data begins with '{shown}'"))
                .hint("the first line is #cloud-config, or #! and an interpreter"))
        }
    }
}

fn check_cloud_config(text: &str) -> Result<(), Fault> {
    let parsed: Result<serde_json::Value, _> = serde_saphyr::from_str(text);
    match parsed {
        Ok(serde_json::Value::Object(keys)) if keys.contains_key("ssh_keys") => {
            Err(Fault::invalid("user-data may not set ssh_keys")
                .hint("the guest's host key is made by 'vm create' and pinned before the first contact"))
        }
        Ok(serde_json::Value::Object(_) | serde_json::Value::Null) => Ok(()),
        Ok(_) => {
            Err(Fault::invalid("user-data is YAML, but no mapping").hint("it has lines such as 'packages: [git]'"))
        }
        Err(error) => {
            let shown: String = error.to_string().lines().next().unwrap_or_default().chars().take(200).collect();
            Err(Fault::invalid(format!("user-data is not valid YAML: {shown}")))
        }
    }
}

/// cloud-init's two files.
pub struct CloudInit {
    pub meta_data: String,
    pub user_data: String,
}

pub fn render(id: LeaseId, user: &GuestUser, seed: &Seed) -> Result<CloudInit, Fault> {
    let meta_data = format!("instance-id: {id}\nlocal-hostname: {}\n", seed.hostname);
    let ours = ours(user, seed);
    let user_data = match &seed.user_data {
        None => ours,
        Some(theirs) => archive(&[(kind_of(theirs)?, theirs), ("text/cloud-config", &ours)]),
    };
    Ok(CloudInit { meta_data, user_data })
}

/// JSON is YAML: nothing in a value can break out of its string.
fn ours(user: &GuestUser, seed: &Seed) -> String {
    let public = public_half(&seed.host_key);
    let mut host_keys = serde_json::json!({ "ed25519_private": seed.host_key });
    if let Some(public) = public {
        host_keys["ed25519_public"] = public.into();
    }
    let mut config = serde_json::json!({
        "hostname": seed.hostname,
        "preserve_hostname": false,
        "ssh_authorized_keys": seed.authorized_keys,
        "ssh_pwauth": false,
        "ssh_deletekeys": true,
        "ssh_genkeytypes": ["ed25519"],
        "ssh_keys": host_keys,
        // Lists and mappings of ours replace the tenant's of the same name; everything else of theirs stays.
        "merge_how": [
            { "name": "list", "settings": ["replace"] },
            { "name": "dict", "settings": ["replace"] },
        ],
    });
    if user.as_str() == "root" {
        config["disable_root"] = false.into();
    }
    format!("#cloud-config\n{config:#}\n")
}

/// The public half stands in clear in an OpenSSH private key: magic, cipher, kdf, options, count, then the blob.
pub(crate) fn public_half(private: &str) -> Option<String> {
    let body: String = private.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = STANDARD.decode(body).ok()?;
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let mut string = || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        Some(value)
    };
    let (_cipher, _kdf, _options) = (string()?, string()?, string()?);
    rest = rest.get(4..)?;
    let (length, after) = rest.split_at_checked(4)?;
    let blob = after.get(..u32::from_be_bytes(length.try_into().ok()?) as usize)?;
    // A key of another kind would be a line that sshd does not read.
    blob.starts_with(b"\0\0\0\x0bssh-ed25519").then(|| format!("ssh-ed25519 {}", STANDARD.encode(blob)))
}

fn archive(parts: &[(&str, &str)]) -> String {
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for (kind, content) in parts {
        let encoded = STANDARD.encode(content);
        text.push_str(&format!(
            "--{BOUNDARY}\nContent-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n"
        ));
        // RFC 2045 has lines of at most 76 characters.
        for at in (0..encoded.len()).step_by(76) {
            text.push_str(&encoded[at..encoded.len().min(at + 76)]);
            text.push('\n');
        }
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    text
}

/// Writes the ISO. Readable by its owner only: it holds the guest's secret host key.
pub fn write_iso(target: &Path, id: LeaseId, user: &GuestUser, seed: &Seed) -> Result<(), Fault> {
    let files = render(id, user, seed)?;
    let parent = target.parent().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix(".seed-").tempdir_in(parent).map_err(|error| broken(&error))?;
    let plain = dir.path().join("golemnode");
    let write = || -> std::io::Result<()> {
        fs::create_dir(&plain)?;
        fs::write(dir.path().join("meta-data"), &files.meta_data)?;
        fs::write(dir.path().join("user-data"), &files.user_data)?;
        fs::write(plain.join("hostname"), format!("{}\n", seed.hostname))?;
        fs::write(plain.join("authorized_keys"), seed.authorized_keys.join("\n") + "\n")?;
        fs::write(plain.join("ssh_host_ed25519_key"), &seed.host_key)
    };
    write().map_err(|error| broken(&error))?;
    let tool = ISO_TOOLS.iter().find(|tool| on_path(tool)).ok_or_else(no_tool)?;
    let mut command = Command::new(tool);
    command.args(["-quiet", "-volid", "CIDATA", "-joliet", "-rock", "-output"]).arg(target).arg(dir.path());
    let private = |_| fs::set_permissions(target, fs::Permissions::from_mode(0o600)).map_err(|error| broken(&error));
    let made = images::run(command, ISO_TIMEOUT)
        .map_err(|why| Fault::new(ErrorCode::CreateFailed, "the seed's ISO was not made").details(format!("{why:?}")));
    made.and_then(private)
}

/// For `doctor`: the tool that is used, if there is one.
pub fn iso_tool() -> Option<&'static str> {
    ISO_TOOLS.into_iter().find(|tool| on_path(tool))
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

fn no_tool() -> Fault {
    Fault::new(ErrorCode::Unavailable, "no tool makes ISO images here").hint(NO_ISO_TOOL)
}

fn broken(error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::StorageFull => Fault::new(ErrorCode::Exhausted, "the disk is full: the seed was not made"),
        _ => Fault::new(ErrorCode::CreateFailed, format!("the seed was not made: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(user_data: Option<&str>) -> Seed {
        Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
            host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx: \"y\"\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            user_data: user_data.map(str::to_owned),
        }
    }

    #[test]
    fn what_would_fight_with_the_lease_is_refused() {
        for bad in [
            "#cloud-config\nssh_keys: {ed25519_private: x}\n",
            "#cloud-config\n  a: [b\n",
            "#cloud-config\n- a\n",
            "#include\nhttp://example.com\n",
            "packages: [git]\n",
            "",
        ] {
            assert_eq!(check_user_data(bad).unwrap_err().code, ErrorCode::InvalidRequest, "{bad:?}");
        }
        for good in ["#cloud-config\npackages: [git]\n", "#cloud-config\n", "#!/bin/sh\necho hi\n"] {
            check_user_data(good).unwrap();
        }
    }

    #[test]
    fn only_an_ed25519_key_has_a_public_half() {
        let key = |blob: &[u8]| {
            let length = u32::try_from(blob.len()).unwrap().to_be_bytes();
            let none = [0, 0, 0, 0].repeat(3);
            let bytes = [b"openssh-key-v1\0", none.as_slice(), &[0, 0, 0, 1], &length, blob].concat();
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n", STANDARD.encode(bytes))
        };
        let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[7; 32]].concat();
        assert_eq!(public_half(&key(&blob)).unwrap(), format!("ssh-ed25519 {}", STANDARD.encode(&blob)));
        assert_eq!(public_half(&key(b"\0\0\0\x07ssh-rsa")), None);
        assert_eq!(public_half(&key(b"")), None);
    }

    #[test]
    fn cloud_init_itself_accepts_what_is_rendered() {
        if !on_path("cloud-init") {
            eprintln!("SKIPPED: cloud-init's schema check: install cloud-init");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for user in ["debian", "root"] {
            let rendered = render(LeaseId([1; 16]), &user.parse().unwrap(), &seed(None)).unwrap();
            let file = dir.path().join("user-data");
            fs::write(&file, &rendered.user_data).unwrap();
            let checked = Command::new("cloud-init").args(["schema", "-c"]).arg(&file).output().unwrap();
            let said =
                String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success(), "{said}");
        }
    }

    /// Python's own MIME parser, which is what cloud-init uses.
    #[test]
    fn the_tenants_part_comes_first_and_unchanged() {
        let theirs = "#cloud-config\nruncmd: [\"echo ü\"]\n";
        let rendered = render(LeaseId([1; 16]), &"debian".parse().unwrap(), &seed(Some(theirs))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("user-data");
        fs::write(&file, &rendered.user_data).unwrap();
        let script = "import email,sys\n\
            m=email.message_from_file(open(sys.argv[1]))\n\
            print('\\n=='.join(p.get_content_type()+' '+p.get_payload(decode=True).decode() for p in m.get_payload()))";
        let parsed = Command::new("python3").arg("-c").arg(script).arg(&file).output();
        let Ok(parsed) = parsed else {
            eprintln!("SKIPPED: the MIME archive is not parsed: install python3");
            return;
        };
        let text = String::from_utf8(parsed.stdout).unwrap();
        let (first, second) = text.split_once("\n==").unwrap();
        assert_eq!(first, format!("text/cloud-config {theirs}"));
        assert!(
            second.starts_with("text/cloud-config #cloud-config") && second.contains("ed25519_private"),
            "{second}"
        );
    }
}
