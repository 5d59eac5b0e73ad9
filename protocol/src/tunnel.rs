//! The first words on a tunnel stream; after them it is the guest's bytes, both ways.
use crate::names::LeaseId;
use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};

/// Each of the two is sent behind its length as two bytes, big-endian, and is never longer than this.
pub const MAX_HEADER: usize = 2048;
/// Of a guest's console; a provider keeps no more of it.
pub const MAX_LOG: u32 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelOpen {
    pub v: u8,
    pub lease_id: LeaseId,
    /// The guest's TCP port.
    pub port: u16,
    /// Not a port: the last of what the guest has written to its serial console, so many bytes of it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelReply {
    Open,
    Refused(Refusal),
}
