//! When is a guest ready? When the SSH server on its port 22 presents the tenant's own host key.
use crate::{Backend, PowerState, no_such_vm, ssh_probe};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::names::LeaseId;
use protocol::text::plain_lines;
use protocol::{ErrorCode, Fault};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The first waits for a banner are short: nothing listens yet, and a server that does answers in milliseconds.
const BANNER_FIRST: Duration = Duration::from_millis(400);
/// Later ones are longer: an sshd on an emulated CPU may take most of a second to greet.
const BANNER_LAST: Duration = Duration::from_secs(1);
const BANNER_STEP: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_millis(50);
/// How often the hypervisor is asked whether the guest still runs: a crashed one is reported at once, not at the
/// deadline.
const STATE_EVERY: Duration = Duration::from_secs(2);
/// Bytes of the guest's console that are told: the last lines of a boot. A peer's details are cut at 2048 characters.
const CONSOLE_TAIL: usize = 1024;
/// A hypervisor that does not answer now must not hide what went wrong.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(2);

/// Waits until the guest's SSH server presents exactly this ed25519 key (an OpenSSH public line). A banner alone
/// would not do: an early sshd may still have a key of its own.
pub async fn wait_ready(
    backend: &dyn Backend,
    id: LeaseId,
    host_public_key: &str,
    deadline: Instant,
) -> Result<(), Fault> {
    let wanted = public_blob(host_public_key)?;
    let mut last = String::from("nothing has answered yet");
    match timeout_at(deadline, poll(backend, id, &wanted, &mut last)).await {
        Ok(done) => done,
        Err(_) => {
            let fault = Fault::new(ErrorCode::Timeout, format!("VM {id} was not reachable by SSH in time"));
            Err(with_console(fault, last, console(backend, id).await))
        }
    }
}

async fn poll(backend: &dyn Backend, id: LeaseId, wanted: &[u8], last: &mut String) -> Result<(), Fault> {
    let mut banner_timeout = BANNER_FIRST;
    let mut next_state = Instant::now();
    loop {
        if Instant::now() >= next_state {
            must_run(backend, id).await?;
            next_state = Instant::now() + STATE_EVERY;
        }
        let address = backend.endpoint(id, 22).await?;
        match ssh_probe::host_key(address, banner_timeout).await {
            Ok(key) if key == wanted => return Ok(()),
            Ok(_) => *last = "an SSH server answers with another host key".into(),
            Err(error) => *last = error.to_string(),
        }
        banner_timeout = (banner_timeout + BANNER_STEP).min(BANNER_LAST);
        sleep(RETRY).await;
    }
}

async fn must_run(backend: &dyn Backend, id: LeaseId) -> Result<(), Fault> {
    match backend.get(id).await?.ok_or_else(|| no_such_vm(id))?.state {
        PowerState::Running => Ok(()),
        state => {
            let fault = Fault::new(ErrorCode::CreateFailed, format!("VM {id} stopped before it was reachable"));
            Err(with_console(fault, format!("it is {state:?}"), console(backend, id).await))
        }
    }
}

/// What the guest said last, if its backend keeps that and has it at hand.
async fn console(backend: &dyn Backend, id: LeaseId) -> Option<Vec<u8>> {
    timeout(CONSOLE_PATIENCE, backend.console_tail(id, CONSOLE_TAIL)).await.ok()?.ok()
}

/// The tenant sees no other trace of a guest that never came up: its VM is taken down, and its disk with it.
fn with_console(fault: Fault, known: String, console: Option<Vec<u8>>) -> Fault {
    let said = plain_lines(&String::from_utf8_lossy(&console.unwrap_or_default()).replace('\r', ""), CONSOLE_TAIL);
    match said.trim() {
        "" => fault.details(known).hint("a slow host needs more time, a large image more memory"),
        said => fault
            .details(format!("{known}; the guest said last:\n{said}"))
            .hint("the details end with the guest's console; a slow host needs more time, a large image more memory"),
    }
}

/// The key blob of an OpenSSH public line, ed25519 only.
pub(crate) fn public_blob(line: &str) -> Result<Vec<u8>, Fault> {
    let mut words = line.split_whitespace();
    let blob = match (words.next(), words.next()) {
        (Some("ssh-ed25519"), Some(blob)) => STANDARD.decode(blob).ok(),
        _ => None,
    };
    blob.ok_or_else(|| Fault::invalid("the guest's host key is not an OpenSSH ed25519 public key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_never_came_up_leaves_its_last_words() {
        let fault = || Fault::new(ErrorCode::Timeout, "late");
        let said = b"[  1.0] boot\r\n\x1b[31mKernel panic\xff\r\n".to_vec();
        let told = with_console(fault(), "no banner".into(), Some(said));
        let details = "no banner; the guest said last:\n[  1.0] boot\n\u{fffd}[31mKernel panic\u{fffd}";
        assert_eq!(told.details.as_deref(), Some(details));
        for nothing in [None, Some(vec![]), Some(b"\r\n".to_vec())] {
            let told = with_console(fault(), "no banner".into(), nothing);
            assert_eq!(told.details.as_deref(), Some("no banner"));
            let hint = told.hint.unwrap();
            assert!(!hint.contains("golemnode") && !hint.contains("console"), "of what is there only: {hint}");
        }
    }

    #[test]
    fn only_ed25519_lines_are_taken() {
        assert!(public_blob("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me").is_ok());
        for bad in ["", "ssh-ed25519", "ssh-rsa AAAA", "ssh-ed25519 !!!"] {
            assert!(public_blob(bad).is_err(), "{bad}");
        }
    }
}
