//! What a provider does to a VM, one thing at a time: kept on disk from the moment it is decided until it is done, so
//! that a process that dies on the way takes it up again.
//!
//! ```text
//!             a slot is free            the hypervisor is done with it
//! waiting ────────────────▶ running ──────────────────────────────────▶ done
//!    │ ▲                       │ │
//!    │ └── a fault that passes ┘ └─▶ failed
//!    └───────▶ cancelled ◀─── taken back, or overtaken
//! ```
use crate::error::Fault;
use crate::message::{PowerAction, VmPhase};
use crate::names::{ActId, LeaseId};
use crate::units::{Resources, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Counts up over all runs of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl JobId {
    /// In the order in which they were decided.
    pub fn key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobKind {
    /// Made and booted, or only booted where it is there.
    Provision,
    Power(PowerAction),
    /// Nothing of it stays.
    Remove,
}

impl JobKind {
    pub fn scales_to(self) -> Option<Resources> {
        match self {
            JobKind::Power(PowerAction::Scale(to)) => Some(to),
            _ => None,
        }
    }
    pub fn word(self) -> &'static str {
        match self {
            JobKind::Provision => "provision",
            JobKind::Power(PowerAction::Start) => "start",
            JobKind::Power(PowerAction::Stop { .. }) => "stop",
            JobKind::Power(PowerAction::Restart) => "restart",
            JobKind::Power(PowerAction::Suspend) => "suspend",
            JobKind::Power(PowerAction::Resume) => "resume",
            JobKind::Power(PowerAction::Scale(_)) => "scale",
            JobKind::Remove => "remove",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn word(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

/// A job as the provider stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    pub id: JobId,
    pub lease_id: LeaseId,
    pub kind: JobKind,
    pub state: JobState,
    /// The tenant's own name for it: one that is asked for again is this one.
    pub act: Option<ActId>,
    /// Where the VM stood before: there it stands again when the job is taken back.
    pub before: VmPhase,
    /// Failed tries since the process started.
    pub tries: u32,
    pub created: Timestamp,
    /// It waits until then at least.
    pub not_before: Timestamp,
    /// Zero before it is over.
    pub ended: Timestamp,
    /// What last went wrong.
    pub fault: Option<Fault>,
}

/// What whoever does a job says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobReport {
    /// How far it is. From `Booting` on only the guest is waited for, and another job may have the slot.
    Phase(VmPhase),
    /// It is done, and the VM stands there now.
    Done(VmPhase),
    /// It did not work, and the VM stands there now.
    Failed { phase: VmPhase, fault: Fault },
    /// The same of another size: what it has now. A disk that was grown stays so.
    NotScaled { phase: VmPhase, fault: Fault, has: Resources },
}

/// What the hypervisor has, whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub lease_id: LeaseId,
    pub state: FoundState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundState {
    On,
    Off,
    Suspended,
    /// Half made, or dead.
    Broken,
}

impl FoundState {
    pub fn phase(self) -> VmPhase {
        match self {
            FoundState::On => VmPhase::Running,
            FoundState::Off => VmPhase::Stopped,
            FoundState::Suspended => VmPhase::Suspended,
            FoundState::Broken => VmPhase::Failed,
        }
    }
}
