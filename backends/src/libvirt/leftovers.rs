//! What the embedded driver wrote of guests that run, and that is not true any more when it is opened again.
use super::accel::boot_id;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// In which boot of the host the embedded driver's `run/` was written, and the lock of whoever looks.
const BOOT: &str = "boot";
/// Where the embedded driver has its lock, and an account of each guest that runs.
const RUN: &str = "run/qemu";

/// A process that closes any file gives up all of its locks on it, libvirt's own too: who once had the driver open does
/// not look at its lock any more. It was not killed since, either.
static WAS_OPEN: AtomicBool = AtomicBool::new(false);

/// Before the driver is opened. Nobody else opens it until what is returned is dropped.
pub fn forget(root: &Path) -> Result<File> {
    let looked = forget_last_boot(root, &boot_id())?;
    if !WAS_OPEN.load(Ordering::Acquire) {
        forget_never_begun(root)?;
    }
    Ok(looked)
}

/// The driver is open.
pub fn note_open() {
    WAS_OPEN.store(true, Ordering::Release);
}

/// Elsewhere libvirt's state of running guests is gone with every boot; the embedded driver has it below its root. It
/// would look for each guest's process by a number that by now is somebody else's, and kill that.
fn forget_last_boot(root: &Path, now: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(root.join(BOOT))?;
    file.lock()?;
    let mut then = String::new();
    file.read_to_string(&mut then)?;
    if then == now {
        return Ok(file);
    }
    if !then.is_empty() {
        absent_is_fine(fs::remove_dir_all(root.join("run")))?;
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(now.as_bytes())?;
    Ok(file)
}

/// libvirt writes down that a guest is being started before it has a process. Killed just then, it finds a guest that
/// is active and has process 0 at every later start: it looks for no process, the start is never over, and whatever is
/// asked of the guest waits for that and fails, its removal too (`qemuProcessReconnectHelper` in libvirt 9.0). A process
/// that was begun meanwhile waits for libvirt before it becomes QEMU, and ends with it.
fn forget_never_begun(root: &Path) -> Result<()> {
    let run = root.join(RUN);
    let Ok(lock) = OpenOptions::new().write(true).open(run.join("driver.pid")) else { return Ok(()) };
    if fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Another process has the driver open, and this guest may just be starting.
        return Ok(());
    }
    for entry in fs::read_dir(&run)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("xml")) && has_no_process(&fs::read_to_string(&path)?) {
            tracing::info!(account = %path.display(), "the start of this guest was cut short; it is off");
            absent_is_fine(fs::remove_file(&path))?;
        }
    }
    Ok(())
}

fn has_no_process(account: &str) -> bool {
    let head = account.split_once("<domstatus ").and_then(|(_, rest)| rest.split_once('>'));
    head.is_some_and(|(attributes, _)| attributes.split(' ').any(|attribute| attribute == "pid='0'"))
}

fn absent_is_fine(removed: Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_in_another_boot_of_the_host_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("run/qemu/guest.xml");
        let at = |boot: &str| forget_last_boot(root.path(), boot).map(drop).unwrap();
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        fs::write(&state, "").unwrap();
        at("first boot, and nothing known of an earlier one");
        at("first boot, and nothing known of an earlier one");
        assert!(state.exists());
        at("second");
        assert!(!root.path().join("run").exists());
        at("third");
    }

    #[test]
    fn only_a_guest_without_a_process_was_never_begun() {
        assert!(has_no_process("<!-- x -->\n<domstatus state='paused' reason='starting up' pid='0'>\n  <job/>"));
        assert!(!has_no_process("<domstatus state='running' reason='booted' pid='10'>\n <x pid='0'/>"));
        assert!(!has_no_process("torn <domst"));
        assert!(!has_no_process(""));
    }
}
