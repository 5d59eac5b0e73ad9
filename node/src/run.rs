//! A node's life: lock the home, open the store, join the mesh, serve the socket, until it is told to stop.
use crate::actor::{Actor, Inbox, Parts};
use crate::api::idle::IdleWatch;
use crate::api::server;
use crate::bans::Bans;
use crate::clock::{self, LastRun};
use crate::config::{NodeConfig, NodeLock};
use crate::handle::{COMMANDS, NodeHandle};
use crate::mesh::{self, MeshConfig, MeshHandle, RelayLimits};
use crate::room::Room;
use crate::ssh::SshDir;
use crate::store::{Store, restore};
use backends::Backend;
use backends::images::ImageStore;
use backends::memory::{MemoryBackend, MemoryOptions};
use protocol::core::provider::OfferedImage;
use protocol::core::{NodeCore, Table};
use protocol::opener::Direct;
use protocol::units::DiskGib;
use protocol::{ErrorCode, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use crate::actor::{Observer, ProviderParts};

/// What has to be written and said at the end; then the process goes even if a peer does not listen.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a node until `stop` is cancelled, a client asks for it, or it has been idle for as long as configured.
/// `ready` is called once, when the socket answers.
pub async fn run(config: NodeConfig, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), Fault> {
    let provider = if config.provide { Some(provider(&config)?) } else { None };
    run_with(config, provider, stop, ready).await
}

/// As `run`, with a hypervisor of the caller's. Benchmarks have one whose guests are servers of their own.
pub async fn run_with(
    config: NodeConfig,
    provider: Option<ProviderParts>,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), Fault> {
    let node = start(&config, provider, Tuning::default()).await?;
    let idle = IdleWatch::new(config.idle_exit);
    let serving = CancellationToken::new();
    let listener = server::bind(&node.lock, &config.home)?;
    let server = tokio::spawn(server::serve(listener, node.handle.clone(), idle.clone(), serving.clone()));
    ready();
    let result = supervise(node.actor, node.handle, idle, stop).await;
    serving.cancel();
    // The socket is gone when this process is; a client that is still reading has its answer or an error.
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    drop(node.lock);
    result
}

/// What a simulation has otherwise.
#[derive(Default)]
pub struct Tuning {
    pub observer: Option<Observer>,
    /// Adverts of a full leaf of the sharded board, so that a small mesh has a tree.
    pub leaf: Option<usize>,
}

/// A node that runs, without a socket before it. `stop` ends it; dropped, it runs on until its handles are gone.
pub struct Node {
    pub handle: NodeHandle,
    pub mesh: MeshHandle,
    actor: tokio::task::JoinHandle<Result<(), Fault>>,
    lock: NodeLock,
}

impl Node {
    pub async fn stop(self) -> Result<(), Fault> {
        stop(&self.handle, self.actor).await
    }
}

/// Everything of `run` that is not the local API: many of these fit into one process.
pub async fn start(config: &NodeConfig, provider: Option<ProviderParts>, tuning: Tuning) -> Result<Node, Fault> {
    config.home.create()?;
    let lock = NodeLock::take(&config.home)?;
    if restore::take_up(&lock, &config.home)? {
        tracing::warn!(before = %config.home.before_restore().display(), "this run begins with a restored store");
    }
    let store = Store::open(&config.home.db())?;
    let stored = store.state()?;
    let last_run = LastRun::of(&config.home.clock());
    // Where nothing is let there is nothing that a wrong clock could end.
    if stored.iter().any(|op| op.table == Table::Leases) {
        last_run.is_over();
    }
    let room = Room::new(&config.home);
    let mut core = NodeCore::new(
        clock::now(),
        config.identity.clone(),
        config.network.clone(),
        crate::config::random_32()?,
        stored,
    )?;
    if let Some(leaf) = tuning.leaf {
        core = core.tuned(leaf, Arc::new(Direct));
    }
    let remembered: Vec<String> = store.known_peers()?.into_iter().flat_map(|known| known.addrs).collect();
    let anchors = store.anchors()?;
    let bans = Bans::restore(clock::now(), store.bans()?);
    let known = !remembered.is_empty() || !anchors.is_empty();
    let expects_peers = config.mdns || !config.bootstrap.is_empty() || known;
    let (mesh, mesh_events) = mesh::spawn(MeshConfig {
        carriers: config.carriers.clone(),
        listen: config.listen.clone(),
        bootstrap: config.bootstrap.clone(),
        remembered,
        anchors,
        banned: bans.list().into_iter().rev().map(|ban| ban.peer).collect(),
        mdns: config.mdns,
        relay: config.relay.then(RelayLimits::default),
        upnp: config.upnp,
        server: config.idle_exit.is_none(),
        ..MeshConfig::new(config.identity.clone(), config.network.clone())
    })
    .await?;
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (waits_for_room, waits) = watch::channel(None);
    let handle = NodeHandle::of_one_that_waits(commands, waits);
    let ssh = SshDir::new(&config.home);
    let (mesh_of_actor, observer) = (mesh.clone(), tuning.observer);
    let named = config.provider.allow.iter().copied().collect();
    let home = config.home.clone();
    let parts = Parts {
        core,
        store,
        home,
        mesh: mesh_of_actor,
        ssh,
        provider,
        bans,
        named,
        expects_peers,
        observer,
        last_run,
        room,
        waits_for_room,
    };
    let actor = tokio::spawn(Actor::run(parts, Inbox { commands: inbox, mesh: mesh_events }));
    Ok(Node { handle, mesh, actor, lock })
}

async fn supervise(
    mut actor: tokio::task::JoinHandle<Result<(), Fault>>,
    handle: NodeHandle,
    idle: IdleWatch,
    asked: CancellationToken,
) -> Result<(), Fault> {
    tokio::select! {
        ended = &mut actor => return crashed(ended),
        () = asked.cancelled() => {}
        () = idle.expired(&handle) => tracing::info!("idle: leaving"),
    }
    stop(&handle, actor).await
}

type Ended = Result<Result<(), Fault>, tokio::task::JoinError>;

fn crashed(ended: Ended) -> Result<(), Fault> {
    ended.unwrap_or_else(|error| Err(Fault::internal(format!("the node's actor ended: {error}"))))
}

async fn stop(handle: &NodeHandle, actor: tokio::task::JoinHandle<Result<(), Fault>>) -> Result<(), Fault> {
    let stopping = async {
        // An actor that has gone already has stopped.
        let _ = handle.stop().await;
        crashed(actor.await)
    };
    let late = |_| Err(Fault::new(ErrorCode::Timeout, "the node did not stop in time"));
    tokio::time::timeout(STOP_DEADLINE, stopping).await.unwrap_or_else(late)
}

fn provider(config: &NodeConfig) -> Result<ProviderParts, Fault> {
    let images = ImageStore::new(config.home.images());
    let settings = config.provider.clone();
    let mut simulated = BTreeMap::new();
    let backend: Arc<dyn Backend> = match settings.backend.as_str() {
        "memory" => {
            let name = &config.default_image;
            let digest = MemoryOptions::digest_of(name.as_str());
            let options =
                MemoryOptions { images: BTreeMap::from([(name.clone(), digest)]), ..MemoryOptions::default() };
            simulated.insert(name.clone(), OfferedImage { digest, user: "root".parse()?, least_disk: DiskGib(1) });
            Arc::new(MemoryBackend::new(options))
        }
        #[cfg(feature = "libvirt")]
        "libvirt" => {
            let home = config.home.root().to_owned();
            Arc::new(backends::libvirt::Libvirt::new(libvirt_config(home, images.clone(), &settings)))
        }
        other => {
            let known = if cfg!(feature = "libvirt") { "libvirt, memory" } else { "memory (built without libvirt)" };
            return Err(Fault::invalid(format!("no backend is named '{other}'")).hint(format!("there are: {known}")));
        }
    };
    Ok(ProviderParts { backend, images, simulated, settings })
}

/// What the settings say of libvirt, for a node and for who looks whether one would work.
#[cfg(feature = "libvirt")]
pub fn libvirt_config(
    home: std::path::PathBuf,
    images: ImageStore,
    settings: &crate::config::ProviderSettings,
) -> backends::libvirt::LibvirtConfig {
    backends::libvirt::LibvirtConfig {
        home,
        uri: settings.libvirt_uri.clone(),
        accel: accel(settings.accel),
        egress: settings.egress,
        limits: backends::libvirt::Limits {
            disk_mib_per_s: settings.vm_disk_rate.0 as u32,
            disk_iops: settings.vm_disk_iops,
            egress_mbit_per_s: settings.vm_bandwidth,
        },
        images,
    }
}

#[cfg(feature = "libvirt")]
fn accel(wanted: crate::config::Accel) -> backends::libvirt::Accel {
    use crate::config::Accel;
    match wanted {
        Accel::Auto => backends::libvirt::Accel::Auto,
        Accel::Kvm => backends::libvirt::Accel::Kvm,
        Accel::Tcg => backends::libvirt::Accel::Tcg,
    }
}
