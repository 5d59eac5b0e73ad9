//! When is a guest ready? When the SSH server on its port 22 presents the tenant's own host key.
use crate::{Backend, PowerState, no_such_vm, ssh_probe};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::names::LeaseId;
use protocol::{ErrorCode, Fault};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The first waits for a banner are short: nothing listens yet, and a server that does answers in milliseconds.
const BANNER_FIRST: Duration = Duration::from_millis(400);
/// Later ones are longer: an sshd on an emulated CPU may take most of a second to greet.
const BANNER_LAST: Duration = Duration::from_secs(1);
const BANNER_STEP: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_millis(50);
/// How often the hypervisor is asked whether the guest still runs: a crashed one is reported at once, not at the
/// deadline.
const STATE_EVERY: Duration = Duration::from_secs(2);

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
        Err(_) => Err(Fault::new(ErrorCode::Timeout, format!("VM {id} was not reachable by SSH in time"))
            .details(last)
            .hint("give a slow host more time, or see the guest's output with 'vm logs'")),
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
        state => Err(Fault::new(ErrorCode::CreateFailed, format!("VM {id} stopped before it was reachable"))
            .details(format!("{state:?}"))
            .hint("see the guest's output with 'vm logs'")),
    }
}

/// The key blob of an OpenSSH public line, ed25519 only.
fn public_blob(line: &str) -> Result<Vec<u8>, Fault> {
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
    fn only_ed25519_lines_are_taken() {
        assert!(public_blob("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me").is_ok());
        for bad in ["", "ssh-ed25519", "ssh-rsa AAAA", "ssh-ed25519 !!!"] {
            assert!(public_blob(bad).is_err(), "{bad}");
        }
    }
}
