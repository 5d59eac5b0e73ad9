//! One trait, many hypervisors. A backend never sees a peer id, a lease's parties or the mesh: a VM is named by its
//! lease id and nothing else, so that after a restart `list()` can be compared with the ledger.
//!
//! ```text
//!            create            stop / guest powers off
//! (nothing) ───────▶ Running ◀────────────────────────▶ Stopped
//!     ▲                │  ▲           start               │
//!     │        suspend │  │ resume                        │
//!     │                ▼  │                               │
//!     └─ destroy ── Suspended ──────── destroy ───────────┘
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]
use async_trait::async_trait;
use protocol::Fault;
use protocol::names::{Arch, BackendKind, Digest, Egress, ImageName, Isolation, LeaseId};
use protocol::seed::Seed;
use protocol::units::{DiskGib, MemoryMib, Resources};
use serde::Serialize;
use std::net::SocketAddr;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod images;
#[cfg(feature = "libvirt")]
pub mod libvirt;
mod measure;
pub mod memory;
mod ready;
pub mod seed;
pub mod ssh_probe;

pub use measure::{HostLoad, Measured, Room, VmUsage};
pub use ready::wait_ready;

/// Everything a backend needs to make a VM. Values are validated types; the seed has passed `Seed::check`.
#[derive(Clone, Debug)]
pub struct InstanceOrder {
    pub id: LeaseId,
    pub resources: Resources,
    pub image: ImageName,
    /// What was quoted: an image that has changed since is refused.
    pub image_digest: Digest,
    pub seed: Seed,
    /// Guest TCP ports to forward besides 22.
    pub ports: Vec<u16>,
    /// What the lease says. A backend that cannot hold the guest to it any more gives less, never more.
    pub egress: Egress,
}

/// What the hypervisor says of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    Running,
    Stopped,
    Suspended,
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instance {
    pub id: LeaseId,
    pub state: PowerState,
    pub resources: Resources,
    pub image: ImageName,
    pub isolation: Isolation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    pub arch: Arch,
    pub cpus: u32,
    pub memory_mib: MemoryMib,
    /// What could be given to new guests without swapping.
    pub memory_mib_free: MemoryMib,
    pub disk_gib: DiskGib,
    pub disk_gib_free: DiskGib,
}

/// What a backend can do, so that the advert says so before anyone rents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The least that the next guest gets: `Emulated` until hardware virtualisation has been proven in this boot.
    pub isolation: Isolation,
    pub egress: Egress,
    pub arch: Arch,
    pub suspend: bool,
    pub snapshots: bool,
    pub live_scale: bool,
    pub volumes: bool,
    pub user_data: bool,
    /// The guest's serial output can be read with `console_tail`.
    pub console: bool,
    /// The order's disk size is a limit that the guest cannot pass.
    pub disk_limit: bool,
}

/// The stages of a create, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Image,
    Disk,
    Seed,
    Define,
    Boot,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Image => "image",
            Stage::Disk => "disk",
            Stage::Seed => "seed",
            Stage::Define => "define",
            Stage::Boot => "boot",
        }
    }
}

/// Told of each stage as it begins. Must not block: it is called on the way.
pub trait Progress: Send + Sync {
    fn stage(&self, stage: Stage);
}
/// Nobody listens.
impl Progress for () {
    fn stage(&self, _: Stage) {}
}
impl<F: Fn(Stage) + Send + Sync> Progress for F {
    fn stage(&self, stage: Stage) {
        self(stage)
    }
}

/// One finding of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    pub detail: String,
    pub hint: Option<String>,
}

impl Check {
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Check { name: name.into(), ok: true, detail: detail.into(), hint: None }
    }
    pub fn bad(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Check { name: name.into(), ok: false, detail: detail.into(), hint: Some(hint.into()) }
    }
}

/// A hypervisor. Faults: `VM_002` for an id it does not have, `VM_004` for a state that does not fit, `VM_005` for
/// what it cannot do, `VM_001` when a guest cannot be made, `IMG_001` for an image it does not have, `RES_002` when
/// the host is full, `RES_003` when the hypervisor cannot be reached.
#[async_trait]
pub trait Backend: Send + Sync {
    fn kind(&self) -> BackendKind;
    async fn capabilities(&self) -> Capabilities;
    async fn host(&self) -> Result<HostInfo, Fault>;

    /// Makes and boots a VM. Returns when it has been started, not when it answers: see `wait_ready`.
    /// Idempotent by id and safe to repeat after a crash at any point: one that is whole is left as it is (and
    /// started when it is stopped), one that is half made is made anew. On a fault nothing is left. A future dropped
    /// on the way may leave parts behind: `destroy` removes them.
    async fn create(&self, order: &InstanceOrder, progress: &dyn Progress) -> Result<(), Fault>;
    /// Starting what runs is no fault; what is suspended must be resumed.
    async fn start(&self, id: LeaseId) -> Result<(), Fault>;
    /// Asks the guest to shut down and waits (`NET_001` when it does not); with `force` the power is cut at once.
    /// The disk stays. Stopping what is stopped is no fault.
    async fn stop(&self, id: LeaseId, force: bool) -> Result<(), Fault>;
    /// Stop, by force where the guest does not obey, and start.
    async fn restart(&self, id: LeaseId) -> Result<(), Fault>;
    async fn suspend(&self, _id: LeaseId) -> Result<(), Fault> {
        Err(cannot(&self.kind(), "suspend a VM"))
    }
    async fn resume(&self, _id: LeaseId) -> Result<(), Fault> {
        Err(cannot(&self.kind(), "resume a VM"))
    }
    /// Gives one that is off another size, from its next start on. The disk is never made smaller: where that is asked
    /// for, it stays as it is. What it has in the end, `get` says.
    async fn scale(&self, _id: LeaseId, _to: Resources) -> Result<(), Fault> {
        Err(cannot(&self.kind(), "give a VM another size"))
    }
    /// Removes the VM and everything that was made for it. Destroying what is not there is no fault.
    async fn destroy(&self, id: LeaseId) -> Result<(), Fault>;

    /// Every VM of this node, also what earlier runs left, half-made ones as `Failed`.
    async fn list(&self) -> Result<Vec<Instance>, Fault>;
    async fn get(&self, id: LeaseId) -> Result<Option<Instance>, Fault>;
    /// Where this process reaches the guest's TCP port; makes the forward where it is missing. It changes with every
    /// start, so it is asked for each time and never stored.
    async fn endpoint(&self, id: LeaseId, port: u16) -> Result<SocketAddr, Fault>;
    /// The last bytes of the guest's serial output, `most` at most.
    async fn console_tail(&self, _id: LeaseId, _most: usize) -> Result<Vec<u8>, Fault> {
        Err(cannot(&self.kind(), "show the console"))
    }
    /// What the host and its VMs use now. What cannot be measured is left out.
    async fn measure(&self) -> Result<Measured, Fault> {
        Ok(Measured::default())
    }
    /// For `doctor`.
    async fn check(&self) -> Vec<Check>;
    /// Lets go of the hypervisor before the process ends; guests go on. The next call opens it again.
    async fn close(&self) {}
}

pub(crate) fn cannot(kind: &BackendKind, what: &str) -> Fault {
    Fault::new(protocol::ErrorCode::BackendCannot, format!("the {kind} backend cannot {what}"))
}

pub(crate) fn no_such_vm(id: LeaseId) -> Fault {
    Fault::new(protocol::ErrorCode::NoSuchVm, format!("no VM {id} here"))
}

pub(crate) fn wrong_state(id: LeaseId, state: &PowerState, what: &str) -> Fault {
    let state = match state {
        PowerState::Running => "running",
        PowerState::Stopped => "stopped",
        PowerState::Suspended => "suspended",
        PowerState::Failed(_) => "failed",
    };
    Fault::new(protocol::ErrorCode::WrongState, format!("VM {id} is {state} and cannot be {what}"))
}
