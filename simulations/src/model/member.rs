//! One node of the model: a core and as little around it as there can be, for there are a hundred thousand of them.
use super::meter::Meter;
use protocol::core::NodeCore;
use protocol::core::provider::Offer;
use protocol::names::LeaseId;
use protocol::shard::{Block, Position, Server};
use protocol::{Keypair, PeerId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What it does to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Honest,
    /// Serves the routing and holds nothing: takes everything, gives nothing, says nothing of it.
    Silent,
    /// Answers lookups with its own kind only.
    FalseRouter,
}

/// A request that was taken and not answered yet.
pub struct Token {
    pub token: u64,
    pub from: u32,
    pub epoch: u32,
    pub rpc: u64,
    pub kind: super::meter::Kind,
}

pub struct Node {
    pub key: Keypair,
    pub peer: PeerId,
    pub at: Position,
    /// None while it is down.
    pub core: Option<Box<NodeCore>>,
    /// It can be reached by everybody, and serves the routing.
    pub public: bool,
    pub nature: Nature,
    pub city: u16,
    pub block: Option<Block>,
    pub server: Arc<Server>,
    pub offer: Option<Arc<Offer>>,
    /// How far its clock is off, in milliseconds.
    pub clock: i64,
    pub epoch: u32,
    pub tick_at: u64,
    pub tokens: Vec<Token>,
    pub next_token: u64,
    /// Gossip's mesh.
    pub neighbours: Vec<u32>,
    pub heard: Vec<u64>,
    pub judging: Vec<(u64, u32, Arc<[u8]>)>,
    /// Connections that are up, and until when.
    pub connections: Vec<(u32, u64)>,
    pub vicinity_due: bool,
    pub vms: BTreeMap<LeaseId, bool>,
    pub started: u64,
    pub meter: Meter,
    /// Creates of its users: when asked, and what came of it.
    pub creates: Vec<Create>,
    /// Which side of a partition it is on.
    pub side: u8,
}

#[derive(Clone, Debug)]
pub struct Create {
    pub id: protocol::names::CreateId,
    pub asked: u64,
    pub discovered: Option<u64>,
    pub first_refused: bool,
    pub done: Option<u64>,
    pub failed: bool,
}

impl Node {
    pub fn is_up(&self) -> bool {
        self.core.is_some() || (self.nature != Nature::Honest && self.epoch > 0)
    }
}
