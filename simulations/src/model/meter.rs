//! What every node sends and receives, by kind, in bytes on the wire.

/// What a byte was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    Gossip,
    /// A provider's advert to its holders.
    Put,
    /// Holder to holder, and holder to parent.
    Hold,
    /// A requestor's questions to the board.
    Ask,
    /// Quotes, leases.
    Rent,
    Lookup,
    Handshake,
    /// Pings, keep-alives, the routing's own refreshes.
    Upkeep,
}

pub const KINDS: [(Kind, &str); 8] = [
    (Kind::Gossip, "gossip"),
    (Kind::Put, "put"),
    (Kind::Hold, "hold"),
    (Kind::Ask, "ask"),
    (Kind::Rent, "rent"),
    (Kind::Lookup, "lookup"),
    (Kind::Handshake, "handshake"),
    (Kind::Upkeep, "upkeep"),
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    sent: [u64; KINDS.len()],
    received: [u64; KINDS.len()],
    pub messages: u64,
}

impl Meter {
    pub fn send(&mut self, kind: Kind, bytes: usize) {
        self.sent[kind as usize] += bytes as u64;
        self.messages += 1;
    }
    pub fn receive(&mut self, kind: Kind, bytes: usize) {
        self.received[kind as usize] += bytes as u64;
    }
    pub fn sent(&self) -> u64 {
        self.sent.iter().sum()
    }
    pub fn received(&self) -> u64 {
        self.received.iter().sum()
    }
    pub fn of(&self, kind: Kind) -> (u64, u64) {
        (self.sent[kind as usize], self.received[kind as usize])
    }
}

/// Bytes beside a message's own, as they were measured between two live nodes on loopback (TCP, noise, yamux), with
/// 60 bytes of IP and TCP headers for each segment. The calibration prints how far they are off.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Each way: opening a stream, agreeing on its protocol, frames, segments and their acknowledgements.
    pub request: usize,
    /// One gossip message: its topic, frames and segments.
    pub gossip: usize,
    /// Each way: TCP, noise, yamux, identify and its protocols.
    pub handshake: usize,
    /// A routing request and its answer, which names 20 peers with two addresses each.
    pub lookup_request: usize,
    pub lookup_answer: usize,
    /// Each way, a second, for each connection kept: a ping and its answer in a minute.
    pub ping_per_connection: f64,
}

impl Default for Wire {
    fn default() -> Self {
        Wire {
            request: 320,
            gossip: 150,
            handshake: 2600,
            lookup_request: 360,
            lookup_answer: 2600,
            ping_per_connection: 4.0,
        }
    }
}
