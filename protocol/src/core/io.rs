//! What happens to a node, and what it does: all that passes between the core and whoever drives it.
use super::provider::Offering;
use super::requestor::CreateRequest;
use super::{Event, StoreOp};
use crate::envelope::Signed;
use crate::error::Fault;
use crate::identity::PeerId;
use crate::job::{Found, JobId, JobReport};
use crate::message::PowerAction;
use crate::money::{Amount, Sum};
use crate::names::{CreateId, Currency, Digest, Egress, ImageName, LeaseId, PeerAddr, VmName};
use crate::quota::Tier;
use crate::shard::{Server, Site};
use crate::spec::{Query, VmSpec};
use crate::units::{Millis, Resources};
use std::sync::Arc;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    PeerConnected(PeerId),
    PeerDisconnected(PeerId),
    Gossip {
        id: u64,
        from: PeerId,
        body: Vec<u8>,
    },
    Request {
        token: u64,
        from: PeerId,
        /// None of a sender that is here, or on a network of its own.
        site: Option<Site>,
        body: Vec<u8>,
    },
    Response {
        rpc: u64,
        result: Result<Vec<u8>, RpcFailure>,
    },
    /// The servers that lie closest to this node, and this node itself while it serves the routing.
    Vicinity {
        own: Option<Arc<Server>>,
        servers: Vec<Arc<Server>>,
    },
    /// The servers closest to what was looked up by `FindHolders`, as many as the routing gives; none when it fails.
    Holders {
        ticket: u64,
        servers: Vec<Arc<Server>>,
    },
    /// Somebody looks for providers.
    Search {
        query: Query,
        wanted: usize,
    },
    /// Where this node can be reached now; those beyond `MAX_ADDRS` are left out.
    Addresses(Vec<PeerAddr>),
    /// What the host has to let, or why nothing.
    Offer(Offering),
    /// Whoever does a job says how it fares.
    Job {
        job: JobId,
        report: JobReport,
    },
    /// What the hypervisor has of this node.
    Inventory(Vec<Found>),
    /// The operator takes a job back.
    CancelJob(JobId),
    Create {
        ticket: u64,
        request: Box<CreateRequest>,
    },
    /// Takes a create back, or ends the rental.
    Destroy {
        ticket: u64,
        create_id: CreateId,
    },
    Power {
        ticket: u64,
        create_id: CreateId,
        action: PowerAction,
    },
    /// More time, at no more than this (or than it costs now).
    /// Another name for the same VM; its keys are under it already.
    Rename {
        ticket: u64,
        create_id: CreateId,
        name: VmName,
        identity_file: Option<String>,
    },
    Renew {
        ticket: u64,
        create_id: CreateId,
        duration: Millis,
        most: Option<Amount>,
    },
    /// Asks the provider now, because somebody looks.
    Refresh(CreateId),
    /// Our own user says that a key is nobody's any more; verified by the node.
    Revoke(Box<Signed>),
    /// The operator gives a peer a tier, or takes it back.
    SetQuota {
        peer: PeerId,
        tier: Option<Tier>,
    },
    /// The operator was paid by a peer.
    GrantCredit {
        peer: PeerId,
        currency: Currency,
        sum: Sum,
    },
    /// The host's clock was set while this node ran, by so many milliseconds, forward if positive: said before anything
    /// else that comes by the new time.
    ClockSet {
        by: i64,
    },
    /// Withdraws the advert, takes no new work.
    Drain,
    /// Takes new work again.
    Undrain,
    /// The process ends soon: as `Drain`, and no job is begun.
    Stop,
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcFailure {
    Timeout,
    Unreachable(String),
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// One transaction, on disk before the next effect.
    Persist(Vec<StoreOp>),
    Publish(Vec<u8>),
    Judge {
        id: u64,
        verdict: Verdict,
    },
    /// Looks up the servers closest to a key; answered by `Holders`.
    FindHolders {
        ticket: u64,
        key: Vec<u8>,
    },
    /// Where a peer says it can be reached, before something is sent to it.
    Learn {
        peer: PeerId,
        addrs: Vec<PeerAddr>,
    },
    Send {
        rpc: u64,
        to: PeerId,
        body: Vec<u8>,
    },
    Reply {
        token: u64,
        body: Vec<u8>,
    },
    /// Answered by `Input::Job`. A VM has one job at a time.
    RunJob(Box<JobOrder>),
    /// It is no longer wanted, and nothing more is to be said of it.
    AbortJob(JobId),
    /// The answer to an input with a ticket.
    Answer {
        ticket: u64,
        result: Result<CreateId, Fault>,
    },
    /// The rental has changed; whoever watches may look again.
    Rental(CreateId),
    /// Something the user of this create should read.
    Notice {
        create_id: CreateId,
        message: String,
    },
    Event(Event),
    /// A peer sent what no honest node sends, and the message proves it: one for each input, however often. Unlike
    /// events they are never left out, so that they can be counted.
    Offence {
        by: PeerId,
        what: &'static str,
        code: crate::ErrorCode,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrder {
    pub job: JobId,
    pub lease_id: LeaseId,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    Provision(VmOrder),
    /// With the seed: after a power-on, too, the guest is ready when its own host key answers.
    Power {
        action: PowerAction,
        seed: Vec<u8>,
    },
    Scale(Scaling),
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// What it has again where it cannot be started with the other.
    pub from: Resources,
    pub to: Resources,
    /// Whether it is to run with it.
    pub on: bool,
    /// As for a power-on.
    pub seed: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmOrder {
    pub lease_id: LeaseId,
    pub spec: VmSpec,
    pub image: ImageName,
    pub image_digest: Digest,
    /// What the quote says.
    pub egress: Egress,
    pub seed: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Worthless here, no fault of the sender.
    Ignore,
    /// Costs the sender its score.
    Reject,
}
