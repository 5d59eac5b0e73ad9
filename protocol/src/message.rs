//! What nodes say to each other over direct streams. The connection authenticates the sender (Noise peer id); what
//! must stand later travels signed inside.
use crate::board::{Page, Posting};
use crate::codec::{self, DecodeError, MAX_MESSAGE};
use crate::envelope::Signed;
use crate::error::Fault;
use crate::identity::PeerId;
use crate::names::{ActId, CreateId, GuestUser, LeaseId, QuoteId};
use crate::refusal::Refusal;
use crate::shard::{ShardRequest, ShardResponse};
use crate::spec::VmSpec;
use crate::units::{Millis, Resources, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub const VERSION: u8 = 1;

/// Every message carries its version and its sender's time: a clock far off the others is worth a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<T> {
    pub v: u8,
    pub sent: Timestamp,
    pub body: T,
}

/// The part of a frame that every version has.
#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    UnknownVersion(u8),
    Undecodable(DecodeError),
}

impl<T: Serialize + DeserializeOwned> Frame<T> {
    pub fn encode(sent: Timestamp, body: T) -> Vec<u8> {
        codec::encode(&Frame { v: VERSION, sent, body })
    }
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let unknown = |v: u64| FrameError::UnknownVersion(u8::try_from(v).unwrap_or(u8::MAX));
        match codec::decode::<Frame<T>>(bytes, MAX_MESSAGE) {
            // A later version may look the same and mean something else.
            Ok(frame) if frame.v != VERSION => Err(unknown(frame.v.into())),
            Ok(frame) => Ok(frame),
            Err(error) => Err(match codec::decode::<Version>(bytes, MAX_MESSAGE) {
                Ok(Version { v }) if v != u64::from(VERSION) => unknown(v),
                _ => FrameError::Undecodable(error),
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A page of the board; with `own`, only the advert of the node that is asked.
    Board {
        after: Option<PeerId>,
        limit: u16,
        own: bool,
    },
    Shard(ShardRequest),
    /// An advert or withdrawal handed over directly, to a neighbour that gossip may not have reached yet.
    Post(Posting),
    Quote(QuoteReq),
    Decline(QuoteId),
    Accept(Signed),
    Confirm(ConfirmReq),
    /// Works in any state, and for a lease whose grant never arrived.
    Release(LeaseId),
    Status(LeaseId),
    /// Answered when the VM's revision is no longer `seen`, or after a few seconds.
    Watch {
        lease_id: LeaseId,
        seen: u64,
    },
    /// May be repeated under its id until there is an answer.
    Power {
        lease_id: LeaseId,
        act: ActId,
        action: PowerAction,
    },
    /// What so much more time would cost.
    RenewQuote {
        lease_id: LeaseId,
        duration: Millis,
    },
    /// May be repeated until there is an answer.
    Renew {
        quote: Signed,
        renew: Signed,
    },
    /// The requestor finds the latest receipt to be right.
    Countersign(Signed),
    /// A provider to its tenants: its node stops, and what it lets runs on.
    Away,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteReq {
    pub create_id: CreateId,
    pub spec: VmSpec,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmReq {
    pub confirm: Signed,
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
}
/// The seed holds a secret key.
impl std::fmt::Debug for ConfirmReq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfirmReq({:?}, seed of {} bytes)", self.confirm, self.seed.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerAction {
    Start,
    Stop {
        force: bool,
    },
    Restart,
    /// Its memory stays, and it does nothing until it is resumed.
    Suspend,
    Resume,
    /// What it has from then on; what runs is started anew with it. A disk only grows.
    Scale(Resources),
}

impl PowerAction {
    pub fn what(self) -> &'static str {
        match self {
            PowerAction::Start => "a start",
            PowerAction::Stop { .. } => "a stop",
            PowerAction::Restart => "a restart",
            PowerAction::Suspend => "a suspension",
            PowerAction::Resume => "a resumption",
            PowerAction::Scale(_) => "another size",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Board(Page),
    Shard(ShardResponse),
    Posted,
    Quote(Signed),
    Declined,
    Granted(Signed),
    Active { active: Signed, status: LeaseStatus },
    Status(LeaseStatus),
    RenewQuote(Signed),
    Renewed { renewed: Signed, status: LeaseStatus },
    Countersigned,
    Refused(Refusal),
}

/// Where a lease stands at its provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    pub lease_id: LeaseId,
    pub stage: LeaseStage,
    /// Grows with every change, so that a watcher knows what it has seen.
    pub revision: u64,
    pub vm: VmPhase,
    /// What last went wrong with it.
    pub fault: Option<Fault>,
    pub guest_user: GuestUser,
    pub active: Option<Signed>,
    /// The latest, while it is not countersigned.
    #[serde(default)]
    pub receipt: Option<Signed>,
    /// The credit that it runs on ends soon.
    #[serde(default)]
    pub credit_ends: Option<Timestamp>,
    /// What the VM has now: as quoted, or as it was scaled.
    #[serde(default)]
    pub resources: Option<Resources>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaseStage {
    Provisional,
    Active,
    /// Its time is over; the disk is kept for the grace time.
    Expired,
    /// Released, lapsed or failed: the VM is being taken down or is gone.
    Ended,
}

/// Where the VM itself stands.
///
/// ```text
/// waiting ─▶ provisioning ─▶ booting ─▶ running ⇄ stopping/stopped        (anything) ─▶ destroying ─▶ gone
///                  └────────────┴─▶ failed                                 running ⇄ suspended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmPhase {
    Waiting,
    Provisioning(ProvisionStep),
    Booting,
    Running,
    Stopping,
    Stopped,
    Suspended,
    Failed,
    Destroying,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProvisionStep {
    Image,
    Disk,
    Seed,
    Define,
}

impl ProvisionStep {
    pub fn word(self) -> &'static str {
        match self {
            ProvisionStep::Image => "image",
            ProvisionStep::Disk => "disk",
            ProvisionStep::Seed => "seed",
            ProvisionStep::Define => "define",
        }
    }
}

impl VmPhase {
    /// More exactly than `word`.
    pub fn step(self) -> &'static str {
        match self {
            VmPhase::Provisioning(step) => step.word(),
            other => other.word(),
        }
    }
    pub fn word(self) -> &'static str {
        match self {
            VmPhase::Waiting | VmPhase::Provisioning(_) => "provisioning",
            VmPhase::Booting => "booting",
            VmPhase::Running => "running",
            VmPhase::Stopping => "stopping",
            VmPhase::Stopped => "stopped",
            VmPhase::Suspended => "suspended",
            VmPhase::Failed => "failed",
            VmPhase::Destroying => "destroying",
            VmPhase::Gone => "destroyed",
        }
    }
}
