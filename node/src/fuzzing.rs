//! Decoders that are nobody else's business, for the targets of `tests/fuzz`. Behind the feature `fuzzing`.
pub use crate::api::fuzzing::*;
pub use crate::mesh::fuzzing::*;

use crate::config::Settings;
use futures::FutureExt;
use protocol::Fault;
use protocol::tunnel::{TunnelOpen, TunnelReply};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// `config.toml`, over the defaults.
pub fn settings(text: &str) -> Result<Settings, Fault> {
    let mut settings = Settings::default();
    settings.read(Path::new("config.toml"), text).map(|()| settings)
}

/// The first words on a tunnel, and how they are written.
pub fn tunnel_open(said: &[u8]) -> Option<(TunnelOpen, Vec<u8>)> {
    header(said)
}
pub fn tunnel_reply(said: &[u8]) -> Option<(TunnelReply, Vec<u8>)> {
    header(said)
}

fn header<T: DeserializeOwned + Serialize>(mut said: &[u8]) -> Option<(T, Vec<u8>)> {
    let header = crate::tunnel::read_header::<T>(&mut said).now_or_never()?.ok()?;
    let mut written = Vec::new();
    // Longer than a header may be: the reader's limit is of what it read, and a text may take more room anew.
    crate::tunnel::write_header(&mut written, &header).now_or_never()?.ok()?;
    Some((header, written))
}
