//! What the local API says and takes: one set of types for the server, the CLI and the docs.
use protocol::core::shards::ShardStats;
use protocol::history::{Estimate, Scope};
use protocol::money::Amount;
use protocol::names::{
    Arch, BackendKind, Country, Currency, Digest, Egress, ImageName, Isolation, IsolationWanted, LeaseId, NodeName,
    ProjectName, VmName,
};
use protocol::quota::{Quota, Tier, Usage};
use protocol::units::{DiskGib, MemoryMib, Resources};
use protocol::{Fault, PeerId};
use serde::{Deserialize, Serialize};

/// RFC 3339 in UTC, made by `crate::clock::rfc3339`.
pub type Time = String;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub peer_id: PeerId,
    pub version: String,
    pub network: String,
    pub roles: Vec<String>,
    pub listen_addrs: Vec<String>,
    pub external_addrs: Vec<String>,
    /// `public`, `private` or `unknown`.
    pub reachability: String,
    #[serde(default)]
    pub reachability_why: String,
    /// While it relays for others.
    #[serde(default)]
    pub relay: Option<RelayStatus>,
    pub peers: usize,
    pub board: BoardStatus,
    pub provider: Option<ProviderStatus>,
    pub uptime_s: u64,
}

/// What a relay carries now; and how much it has carried for those who are called by it, in their windows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    pub reservations: u64,
    pub circuits: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoardStatus {
    pub adverts: usize,
    pub shards: usize,
    /// What happened on the sharded board since the node started: as a holder, as a provider, as a requestor.
    #[serde(default)]
    pub tree: ShardStats,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderStatus {
    pub advertised: bool,
    /// Why there is no advert, when there is none.
    pub reason: Option<String>,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub egress: Egress,
    pub offer: Resources,
    pub free: Resources,
    pub leases: usize,
    pub max_vms: u32,
    pub images: Vec<ImageName>,
    pub price_per_hour: Amount,
    pub currency: Currency,
}

/// All about this node as a provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderReport {
    #[serde(flatten)]
    pub status: ProviderStatus,
    /// The operator wants no new work.
    pub draining: bool,
    /// Percent, each: above it nothing new is let.
    pub cpu_threshold: u8,
    pub memory_threshold: u8,
    pub disk_threshold: u8,
    /// None where VMs do not run on this machine.
    pub host: Option<HostView>,
    /// Those that run.
    pub vms: Vec<VmUsageView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    pub cpus: u32,
    /// The average of a minute, without this node's guests; none in the first minute.
    pub cpu_percent: Option<f64>,
    pub guests_cpu_percent: f64,
    pub memory_percent: f64,
    pub memory_bytes: u64,
    pub swap_percent: f64,
    pub swap_bytes: u64,
    pub disk_percent: f64,
    pub disk_bytes: u64,
    pub disk_read_per_s: u64,
    pub disk_written_per_s: u64,
    pub net_received_per_s: u64,
    pub net_sent_per_s: u64,
}

/// What a guest has of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmUsageView {
    pub lease_id: protocol::names::LeaseId,
    /// Of the processors, since it was started.
    pub cpu_s: u64,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: u64,
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
}

/// What a requestor may have here at once, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    pub peer_id: PeerId,
    /// None: a stranger, whom only the provider's own limits bound.
    pub tier: Option<Tier>,
    pub limits: Option<Quota>,
    pub used: Usage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaBody {
    /// None takes it back.
    pub tier: Option<Tier>,
}

/// Something that this provider does to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    pub id: u64,
    pub lease_id: LeaseId,
    /// `provision`, `start`, `stop`, `restart` or `remove`.
    pub kind: String,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Since the node was started.
    pub failed_tries: u32,
    pub created_at: Time,
    pub ended_at: Option<Time>,
    /// What last went wrong with it.
    #[serde(rename = "error")]
    pub fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderAction {
    Drain,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderActionBody {
    pub action: ProviderAction,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    pub peer_id: PeerId,
    pub addrs: Vec<String>,
    pub agent: Option<String>,
    pub latency_ms: Option<u64>,
    /// `inbound` or `outbound`.
    pub direction: String,
    #[serde(flatten)]
    pub path: PathView,
    /// This node goes back to it first after a restart.
    #[serde(default)]
    pub anchor: bool,
    pub connected_s: u64,
}

/// A peer that is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    pub peer_id: PeerId,
    pub reason: String,
    pub since: Time,
    pub until: Time,
    /// Proven offences that made it, and those since.
    pub offences: u64,
}

/// The way to another node, which new tunnels take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// `direct`, `relayed` or `hole-punched`.
    pub path: String,
    /// Who relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<PeerId>,
}

impl PathView {
    pub fn of(path: crate::mesh::Path) -> Self {
        use crate::mesh::Path;
        let (path, relay) = match path {
            Path::Direct => ("direct", None),
            Path::Relayed { relay } => ("relayed", Some(relay)),
            Path::HolePunched => ("hole-punched", None),
        };
        PathView { path: path.to_owned(), relay }
    }
}

impl std::fmt::Display for PathView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.relay {
            Some(relay) => write!(f, "{} by {}", self.path, relay.short()),
            None => f.write_str(&self.path),
        }
    }
}

/// The query of `GET /api/v1/providers`, and what `provider list` takes as flags.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderQuery {
    pub cpus: Option<u32>,
    pub memory_mib: Option<MemoryMib>,
    pub disk_gib: Option<DiskGib>,
    pub country: Option<Country>,
    pub arch: Option<Arch>,
    pub max_price: Option<Amount>,
    pub image: Option<ImageName>,
    pub isolation: Option<IsolationWanted>,
    pub sort: Option<ProviderSort>,
    pub limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderSort {
    Price,
    Latency,
    Score,
}

/// Of a node that does not say: it is older.
fn one() -> f64 {
    1.0
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderView {
    pub peer_id: PeerId,
    pub name: Option<NodeName>,
    pub country: Option<Country>,
    pub arch: Arch,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub egress: Egress,
    pub free: Resources,
    /// The largest VM it ever offers.
    pub largest: Resources,
    /// CPUs that it lets for each that it has.
    #[serde(default = "one")]
    pub overcommit_cpu: f64,
    pub price_per_hour: Amount,
    pub currency: Currency,
    pub images: Vec<ImageName>,
    pub expires_at: Time,
    pub latency_ms: Option<u64>,
    /// 0 to 1, higher is better: see `protocol::ranking`.
    pub score: f64,
    /// How long a create there usually takes, by this node's own past; of the image asked for, if one was.
    #[serde(default)]
    pub estimate_ms: Option<u64>,
}

/// How long creates took, of those that tell most about the next one: see `protocol::history`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstimateView {
    pub median_ms: u64,
    /// Nine of ten took no longer.
    pub ninth_decile_ms: u64,
    pub samples: u32,
    pub scope: Scope,
}

impl From<Estimate> for EstimateView {
    fn from(estimate: Estimate) -> Self {
        EstimateView {
            median_ms: estimate.median.0,
            ninth_decile_ms: estimate.ninth_decile.0,
            samples: estimate.samples,
            scope: estimate.scope,
        }
    }
}

/// The answer to `POST /api/v1/identity/revoke`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokedView {
    pub peer_id: PeerId,
    /// Who goes on for it, when it says so.
    pub successor: Option<PeerId>,
    /// It is this node's own.
    pub own: bool,
    /// Neighbours that are told now; those that connect within ten minutes are told as well.
    pub told: usize,
}

/// `GET /api/v1/vms/{id}/log`: the last of what the guest has written to its serial console. Bytes that are no text are
/// replaced; what drives a terminal is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogView {
    pub text: String,
}

/// The body of `POST /api/v1/vms/{id}/rename`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameBody {
    pub name: VmName,
}

/// The body of `POST /api/v1/vms`. With `Accept: application/x-ndjson` the answer is a stream of [`CreateEvent`]s;
/// a client that goes away before the lease is confirmed takes the request back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    pub name: VmName,
    pub resources: Resources,
    pub image: ImageName,
    #[serde(default)]
    pub provider: Option<PeerId>,
    #[serde(default)]
    pub country: Option<Country>,
    #[serde(default)]
    pub arch: Option<Arch>,
    #[serde(default)]
    pub max_price: Option<Amount>,
    #[serde(default)]
    pub backend: Option<BackendKind>,
    #[serde(default)]
    pub isolation: IsolationWanted,
    pub duration_s: u64,
    /// Where none is let for so long, less will do.
    #[serde(default)]
    pub or_less: bool,
    /// Where nobody gives that much of the machine, less will do.
    #[serde(default)]
    pub allow_smaller: bool,
    /// The tenant's own key; without it the node makes a pair for this VM.
    #[serde(default)]
    pub ssh_key: Option<TenantKey>,
    #[serde(default)]
    pub user_data: Option<String>,
    #[serde(default)]
    pub ports: Vec<u16>,
    pub timeout_s: u64,
    /// False: done as soon as the lease is active.
    #[serde(default = "yes")]
    pub wait: bool,
    #[serde(default)]
    pub project: Option<ProjectName>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantKey {
    /// One line of an OpenSSH public key.
    pub public: String,
    /// The private half's path, for `ssh -i`; none when an agent holds it.
    pub identity_file: Option<String>,
}

/// A line of the stream that a create answers with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum CreateEvent {
    /// `discover`, `quote`, `lease`, `provision` or `boot` has begun.
    Stage {
        stage: CreateStage,
        message: String,
        elapsed_ms: u64,
        /// Once for each provider that is chosen, when there is a past to tell from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        estimate: Option<EstimateView>,
    },
    /// Something the user should know: a provider that refused, a guest without egress.
    Notice {
        message: String,
    },
    Done {
        vm: Box<VmView>,
    },
    Failed {
        error: Fault,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreateStage {
    Discover,
    Quote,
    Lease,
    Provision,
    Boot,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmView {
    /// The create id: it is there before any lease is.
    pub id: String,
    pub name: VmName,
    pub status: VmStatus,
    /// Why it failed, or since when the provider is out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    pub provider: Option<PeerId>,
    /// How tunnels to it get to the provider, while that is connected.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathView>,
    /// Of which project file it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    pub image: ImageName,
    pub cpus: u32,
    pub memory_mib: MemoryMib,
    pub disk_gib: DiskGib,
    pub lease: Option<VmLease>,
    pub ssh: Option<VmSsh>,
    pub isolation: Option<Isolation>,
    pub egress: Egress,
    pub created_at: Time,
    pub timings_ms: Timings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmStatus {
    Pending,
    Provisioning,
    Running,
    Stopping,
    Stopped,
    Suspended,
    Destroying,
    Destroyed,
    Failed,
    Expired,
    Unknown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmLease {
    pub id: LeaseId,
    pub price_per_hour: Amount,
    pub currency: Currency,
    pub expires_at: Time,
    /// The credit with its provider ends soon, and the VM stops then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit_ends_at: Option<Time>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmSsh {
    pub user: String,
    /// The name under which the guest's key is pinned, and the `Host` of `vm ssh-config`.
    pub host_alias: String,
    pub identity_file: Option<String>,
    pub known_hosts_file: String,
}

/// How long each stage of the create took, as far as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    pub discover: u64,
    pub quote: u64,
    pub lease: u64,
    pub provision: u64,
    pub boot: u64,
    pub total: u64,
}

/// The body of `POST /api/v1/vms/{id}/action`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmActionBody {
    pub action: VmActionName,
    #[serde(default)]
    pub force: bool,
    /// Of a scale: what is not said stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<DiskGib>,
}

impl From<VmActionName> for VmActionBody {
    fn from(action: VmActionName) -> Self {
        VmActionBody { action, force: false, cpus: None, memory_mib: None, disk_gib: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmActionName {
    Start,
    Stop,
    Restart,
    Suspend,
    Resume,
    Destroy,
    Scale,
}

/// A row of `GET /api/v1/leases`: those this node rents, and those it has let.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseView {
    pub id: LeaseId,
    /// `requestor` or `provider`: this node's side of it.
    pub role: String,
    /// `provisional`, `active` or `ended`.
    pub state: String,
    pub vm: Option<VmName>,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub resources: Resources,
    pub image: ImageName,
    pub seed_hash: Digest,
    pub price_per_hour: Amount,
    pub currency: Currency,
    pub started_at: Option<Time>,
    pub expires_at: Time,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventView {
    pub id: u64,
    pub time: Time,
    #[serde(rename = "type")]
    pub kind: String,
    pub severity: String,
    pub message: String,
    pub subject: Option<String>,
    pub details: serde_json::Value,
}

/// The JSON shape of every error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorView,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorView {
    #[serde(flatten)]
    pub fault: Fault,
    pub request_id: String,
    pub timestamp: Time,
}

/// The body of `POST /api/v1/store/backup`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreBackup {
    /// By its whole path.
    pub file: std::path::PathBuf,
    #[serde(default)]
    pub overwrite: bool,
}

/// The body of `POST /api/v1/store/restore`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreRestore {
    pub file: std::path::PathBuf,
}
