//! One node of the model: a core and as little around it as there can be, for there are a hundred thousand of them.
use super::meter::Meter;
use protocol::core::NodeCore;
use protocol::core::provider::Offer;
use protocol::core::requestor::{Phase, Rental};
use protocol::names::LeaseId;
use protocol::shard::{Block, Position, Server};
use protocol::units::{Resources, Timestamp};
use protocol::{Fault, Keypair, PeerId};
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
    /// Handshakes that a block may still make, and when that was so.
    pub doors: Vec<(Block, f64, u64)>,
    pub vicinity_due: bool,
    /// What is there on its host, whatever its ledger says.
    pub vms: BTreeMap<LeaseId, Resources>,
    pub started: u64,
    pub meter: Meter,
    /// Which side of a partition it is on.
    pub side: u8,
}

/// A user's create: when it was asked for, and what came of it, in milliseconds of the run.
#[derive(Clone, Debug)]
pub struct Create {
    pub node: u32,
    pub asked: u64,
    /// After the asking, by the requestor's own clock.
    pub discovered: Option<u64>,
    /// Whether the first accept was granted; none while that is open.
    pub first_accept: Option<bool>,
    accepted_at: Option<PeerId>,
    pub running: Option<u64>,
    /// Why it came to nothing.
    pub failed: Option<Fault>,
    pub failed_at: Option<u64>,
    /// It is given back so long after it runs; none when its lease is left to end.
    pub lifetime: Option<u64>,
}

impl Create {
    pub fn new(node: u32, asked: u64, lifetime: Option<u64>) -> Self {
        Create {
            node,
            asked,
            discovered: None,
            first_accept: None,
            accepted_at: None,
            running: None,
            failed: None,
            failed_at: None,
            lifetime,
        }
    }

    /// The rental has changed. True when it has just come to its end, one way or the other.
    pub fn note(&mut self, now: u64, rental: &Rental) -> bool {
        let over = self.running.is_some() || self.failed.is_some();
        if rental.marks.discovered != Timestamp(0) && self.discovered.is_none() {
            self.discovered = Some((rental.marks.discovered - rental.created).0);
        }
        let provider = rental.deal.as_ref().map(|deal| deal.provider);
        match rental.phase {
            Phase::Accepting if self.accepted_at.is_none() => self.accepted_at = provider,
            Phase::Confirming | Phase::Leased if self.first_accept.is_none() => {
                self.first_accept = Some(provider == self.accepted_at);
            }
            Phase::Discovering | Phase::Quoting | Phase::Failed if self.accepted_at.is_some() => {
                self.first_accept.get_or_insert(false);
            }
            _ => {}
        }
        if rental.ran && self.running.is_none() {
            self.running = Some(now);
        }
        if rental.phase == Phase::Failed && self.running.is_none() && self.failed.is_none() {
            self.failed_at = Some(now);
            self.failed = Some(rental.fault.clone().unwrap_or_else(|| Fault::internal("without a reason")));
        }
        !over && (self.running.is_some() || self.failed.is_some())
    }
}

impl Node {
    pub fn is_up(&self) -> bool {
        self.core.is_some() || (self.nature != Nature::Honest && self.epoch > 0)
    }
}
