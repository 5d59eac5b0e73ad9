//! Decoders that are nobody else's business, for the targets of `tests/fuzz`. Behind the feature `fuzzing`.
use crate::images::{self, Bundle, DiskFormat, Entry, Manifest};
use crate::{ready, seed, ssh_probe};
use futures::FutureExt;
use protocol::Fault;
pub use reqwest::Url;

/// `manifest.json` of a bundle, as `import` takes it.
pub fn bundle(text: &str) -> Result<Bundle, String> {
    let bundle: Bundle = serde_json::from_str(text).map_err(|error| error.to_string())?;
    bundle.check().map(|()| bundle).map_err(|fault| fault.message)
}

/// `manifest.json` in the store.
pub fn manifest(text: &str) -> Option<Manifest> {
    serde_json::from_str(text).ok()
}

pub fn catalogue(text: &str) -> Result<Vec<Entry>, Fault> {
    images::parse_catalogue(text)
}

/// The side file of a half download: its address and what it must hash to.
pub fn memo(text: &[u8]) -> Option<Vec<u8>> {
    let memo: images::Memo = serde_json::from_slice(text).ok()?;
    serde_json::to_vec(&memo).ok()
}

/// `qemu-img info`: the format and the size that a guest sees.
pub fn disk_info(answer: &str) -> Result<(DiskFormat, u64), Fault> {
    images::judge_info(answer, "disk").map(|info| (info.format, info.virtual_size))
}

/// Whether a file that begins so may be a raw disk; otherwise why not, and a hint.
pub fn raw_disk(head: &[u8], size: u64, kernel: bool) -> Result<(), (String, String)> {
    images::judge_raw(head, size, kernel)
}

/// Of an answer's headers: its length, what vouches for it, and the whole length if it goes on from `from`.
pub fn headers(lines: &str, from: u64, known: Option<u64>) -> (Option<u64>, Option<String>, Option<Option<u64>>) {
    images::headers(lines, from, known)
}

/// The host key of a server that says this and no more.
pub fn ssh_host_key(said: &[u8]) -> std::io::Result<Vec<u8>> {
    ssh_probe::host_key_in(said).now_or_never().unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into()))
}

/// The key blob of an OpenSSH public line.
pub fn public_key(line: &str) -> Option<Vec<u8>> {
    ready::public_blob(line).ok()
}

/// The public line of an OpenSSH private key.
pub fn public_half(private: &str) -> Option<String> {
    seed::public_half(private)
}

#[cfg(feature = "libvirt")]
pub mod libvirt {
    use crate::libvirt::{console, forwards, xml};
    use protocol::names::LeaseId;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    /// QEMU's answer to `ringbuf-read`.
    pub fn console(answer: &str) -> Option<Vec<u8>> {
        console::parse(answer)
    }
    /// QEMU's `info usernet`.
    pub fn forwards(text: &str) -> HashMap<u16, SocketAddr> {
        forwards::parse_forwards(text)
    }
    /// Whether libvirt's description of a domain says KVM, and whose a domain of this name is.
    pub fn domain(text: &str) -> (bool, Option<LeaseId>) {
        (xml::is_kvm(text), xml::id_of(text))
    }
}
