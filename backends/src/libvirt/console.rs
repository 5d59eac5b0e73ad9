//! The guest's serial output. QEMU keeps it in a ring in its own memory, and reading takes out what is read, so what
//! was read is kept beside the disk: never more than the ring holds, and still there when the guest or we have ended.
use super::Host;
use super::domain::{disk_fault, refused};
use super::xml::{CONSOLE, CONSOLE_BYTES};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::Fault;
use protocol::names::LeaseId;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::PoisonError;
use virt::domain::Domain;

const KEPT: &str = "console";

impl Host {
    pub(super) fn console_tail(&self, id: LeaseId, most: usize) -> Result<Vec<u8>, Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "read")?;
        let mut kept = self.keep_console(id, &domain)?;
        Ok(kept.split_off(kept.len().saturating_sub(most)))
    }

    /// Moves what the ring holds to the file, and gives all that is kept.
    pub(super) fn keep_console(&self, id: LeaseId, domain: &Domain) -> Result<Vec<u8>, Fault> {
        // Two readers at once would each have half of it.
        let known = self.forwards.of(id);
        let _alone = known.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.folder(id).join(KEPT);
        let mut kept = fs::read(&file).unwrap_or_default();
        if !domain.is_active().unwrap_or(false) {
            return Ok(kept);
        }
        let command = serde_json::json!({
            "execute": "ringbuf-read",
            "arguments": { "device": CONSOLE, "size": CONSOLE_BYTES, "format": "base64" },
        });
        let answer = domain
            .qemu_monitor_command(&command.to_string(), 0)
            .map_err(|error| refused(id, "read the guest's console", &error))?;
        let new = parse(&answer).ok_or_else(|| Fault::internal("QEMU's answer about the console is not base64"))?;
        if !new.is_empty() {
            kept.extend(new);
            kept.drain(..kept.len().saturating_sub(CONSOLE_BYTES));
            write(&file, &kept).map_err(|error| disk_fault(&error))?;
        }
        Ok(kept)
    }
}

pub(crate) fn parse(answer: &str) -> Option<Vec<u8>> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    STANDARD.decode(answer["return"].as_str()?).ok()
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(bytes)
}
