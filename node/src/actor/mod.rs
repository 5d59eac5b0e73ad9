//! The node's one owner of state. Whatever happens — a peer's message, a command of the user, a VM's report, time —
//! becomes an `Input` of the core; what the core decides is performed here, in its order. `select` waits, `apply` is
//! quick, `perform` writes to disk before it sends.
mod acting;
mod billing;
mod commands;
mod defence;
mod effects;
mod keep;
mod provide;
mod room;
mod views;

use crate::bans::{Bans, Charge};
use crate::clock;
use crate::config::Home;
use crate::handle::{Answer, Command};
use crate::mesh::{MeshEvent, MeshHandle, Path, Reachability, Refused, RpcError, RpcId};
use crate::provider::monitor::{Monitor, Thresholds};
use crate::provider::offering;
use crate::provider::worker::{REPORTS, Report, Workers};
use crate::room::Room;
use crate::ssh;
use crate::store::{KnownPeer, Store};
use crate::tunnel;
use backends::{Backend, Measured};
use commands::Creating;
use protocol::core::provider::{OfferedImage, Offering};
use protocol::core::{Input, NodeCore, RpcFailure};
use protocol::job::Found;
use protocol::names::{CreateId, ImageName};
use protocol::refusal::Refusal;
use protocol::tunnel::TunnelOpen;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault, PeerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

/// Messages from this node's own tasks; each is answered within a few milliseconds.
const INTERNAL: usize = 256;
/// The longest sleep: a host clock that was set forward is noticed after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How long the first question of a node that has just started waits for a neighbour's board.
const SYNC_PATIENCE: Duration = Duration::from_millis(2500);
/// How often the hypervisor's list is held against the ledger.
const RECONCILE_EVERY: Duration = Duration::from_secs(5);
/// The same while something differs: a second look decides.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What has been begun when the node stops may be finished within this; else the next run does it again.
const FINISH: Duration = Duration::from_secs(4);

/// What the actor is made of; `run` puts it together.
pub struct Parts {
    pub core: NodeCore,
    pub store: Store,
    pub home: Home,
    pub mesh: MeshHandle,
    pub ssh: ssh::SshDir,
    pub provider: Option<ProviderParts>,
    pub bans: Bans,
    /// Peers that the settings name: they are never banned.
    pub named: BTreeSet<PeerId>,
    /// Whether there is anybody to wait for when the board is empty.
    pub expects_peers: bool,
    pub observer: Option<Observer>,
    pub last_run: clock::LastRun,
    pub room: Room,
    /// Told while a commit waits for room on the disk, and why.
    pub waits_for_room: watch::Sender<Option<Fault>>,
}

/// Looks at the core each time something has happened to it, before that has any effect: for measuring. It must not
/// block.
pub type Observer = Box<dyn FnMut(&NodeCore) + Send + Sync>;

pub struct ProviderParts {
    pub backend: Arc<dyn Backend>,
    pub images: backends::images::ImageStore,
    /// What the simulated backend pretends to have.
    pub simulated: BTreeMap<ImageName, OfferedImage>,
    pub settings: crate::config::ProviderSettings,
}

impl ProviderParts {
    async fn survey(&self, let_out: Resources) -> Offering {
        offering::survey(&*self.backend, &self.images, &self.simulated, &self.settings, let_out).await
    }
}

pub(crate) enum Internal {
    ClientGone(CreateId),
    MayTunnel {
        from: PeerId,
        open: TunnelOpen,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    Offering(Offering),
    /// So long after the start.
    Measured(Duration, Measured),
    Inventory(Vec<Found>),
    /// A backup is ready to take the store's place.
    Restored,
}

struct Waiting<T, Q> {
    answer: Answer<T>,
    wants: Q,
}

pub struct Actor {
    core: NodeCore,
    store: Arc<Store>,
    home: Home,
    mesh: MeshHandle,
    ssh: ssh::SshDir,
    provider: Option<Arc<ProviderParts>>,
    workers: Option<Workers>,
    internal: mpsc::Sender<Internal>,
    /// The mesh's ids of our requests, and the core's.
    rpcs: HashMap<RpcId, u64>,
    next_ticket: u64,
    tickets: HashMap<u64, commands::Ticket>,
    creating: HashMap<CreateId, Vec<Creating>>,
    waits: Vec<Waiting<crate::api::types::VmView, acting::Until>>,
    providers_asked: Vec<Waiting<Vec<crate::api::types::ProviderView>, crate::api::types::ProviderQuery>>,
    pinned: BTreeSet<PeerId>,
    partners: Vec<PeerId>,
    latencies: HashMap<PeerId, u64>,
    /// The way to each peer that is connected.
    paths: HashMap<PeerId, Path>,
    reachability: (Reachability, String),
    bans: Bans,
    named: BTreeSet<PeerId>,
    /// Found guilty by the last input, of whom each makes one at most.
    charges: Vec<Charge>,
    started: Instant,
    expects_peers: bool,
    observer: Option<Observer>,
    last_run: clock::LastRun,
    /// What the core has been told of it.
    clock_set_by: i64,
    monitor: Monitor,
    measuring: Arc<Mutex<()>>,
    looking: Arc<Mutex<()>>,
    /// Why nothing is let for the moment.
    too_busy: Option<String>,
    room: Room,
    waits_for_room: watch::Sender<Option<Fault>>,
    stopping: Option<Answer<()>>,
}

/// The channels that an actor listens on.
pub struct Inbox {
    pub commands: mpsc::Receiver<Command>,
    pub mesh: mpsc::Receiver<MeshEvent>,
}

impl Actor {
    /// Runs until it is told to stop, or until the store fails: then nothing more may be promised.
    pub async fn run(parts: Parts, mut inbox: Inbox) -> Result<(), Fault> {
        let (internal, mut own) = mpsc::channel(INTERNAL);
        let (reports, mut vm_reports) = mpsc::channel::<Report>(REPORTS);
        let provider = parts.provider.map(Arc::new);
        let thresholds = provider.as_ref().map_or(Thresholds::NONE, |provider| Thresholds::of(&provider.settings));
        let workers = provider.as_ref().map(|provider| Workers::new(provider.backend.clone(), reports));
        let mut actor = Actor {
            core: parts.core,
            store: Arc::new(parts.store),
            home: parts.home,
            mesh: parts.mesh,
            ssh: parts.ssh,
            provider,
            workers,
            internal,
            rpcs: HashMap::new(),
            next_ticket: 0,
            tickets: HashMap::new(),
            creating: HashMap::new(),
            waits: Vec::new(),
            providers_asked: Vec::new(),
            pinned: BTreeSet::new(),
            partners: Vec::new(),
            latencies: HashMap::new(),
            paths: HashMap::new(),
            reachability: (Reachability::Unknown, "it has just started".to_owned()),
            bans: parts.bans,
            named: parts.named,
            charges: Vec::new(),
            started: Instant::now(),
            expects_peers: parts.expects_peers,
            observer: parts.observer,
            last_run: parts.last_run,
            clock_set_by: clock::set_by(),
            monitor: Monitor::new(thresholds),
            measuring: Arc::default(),
            looking: Arc::default(),
            too_busy: None,
            room: parts.room,
            waits_for_room: parts.waits_for_room,
            stopping: None,
        };
        let mut reconcile = tokio::time::interval(RECONCILE_EVERY);
        reconcile.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if actor.provider.is_some() && actor.store.draining()? {
            actor.input(Input::Drain);
        }
        actor.say_if_clock_is_doubted();
        actor.perform().await?;
        while actor.stopping.is_none() {
            let sleep = actor.sleep();
            tokio::select! {
                Some(command) = inbox.commands.recv() => actor.command(command).await?,
                Some(event) = inbox.mesh.recv() => actor.mesh_event(event),
                Some((job, report)) = vm_reports.recv() => actor.input(Input::Job { job, report }),
                Some(message) = own.recv() => actor.internal(message),
                _ = reconcile.tick() => actor.housekeep().await,
                _ = look_again.tick() => actor.look_again(),
                () = tokio::time::sleep(sleep) => actor.input(Input::Tick),
                else => break,
            }
            actor.perform().await?;
        }
        actor.input(Input::Stop);
        actor.perform().await?;
        let _ = tokio::time::timeout(FINISH, actor.finish(&mut vm_reports)).await;
        actor.stop().await
    }

    fn look_again(&mut self) {
        if self.core.provider().is_unsure() {
            self.take_inventory();
        }
        self.refresh_waited();
    }

    /// Until nothing is under way at the hypervisor.
    async fn finish(&mut self, reports: &mut mpsc::Receiver<Report>) -> Result<(), Fault> {
        while self.core.provider().jobs().acting() > 0 {
            let Some((job, report)) = reports.recv().await else { break };
            self.input(Input::Job { job, report });
            self.perform().await?;
        }
        Ok(())
    }

    fn input(&mut self, input: Input) {
        let now = clock::now();
        let set = clock::set_by();
        let by = set - std::mem::replace(&mut self.clock_set_by, set);
        if by != 0 {
            self.core.handle(now, Input::ClockSet { by });
        }
        self.core.handle(now, input);
    }

    fn sleep(&self) -> Duration {
        let until = self.core.next_deadline().map_or(LONGEST_SLEEP, |at| (at - clock::now()).as_std());
        let waiting = if self.providers_asked.is_empty() { LONGEST_SLEEP } else { Duration::from_millis(50) };
        until.min(LONGEST_SLEEP).min(waiting)
    }

    fn mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Request { token, from, site, body } => {
                self.look_for_room();
                self.input(Input::Request { token: token.0, from, site, body });
            }
            MeshEvent::Vicinity { own, servers } => {
                let own = own.map(|own| routing_server(&own));
                self.input(Input::Vicinity { own, servers: servers.iter().map(routing_server).collect() });
            }
            MeshEvent::Holders { ticket, servers } => {
                self.input(Input::Holders { ticket, servers: servers.iter().map(routing_server).collect() });
            }
            MeshEvent::Response { rpc, result } => {
                if let Some(rpc) = self.rpcs.remove(&rpc) {
                    self.input(Input::Response { rpc, result: result.map_err(failure) });
                }
            }
            MeshEvent::Gossip { id, from, body } => self.input(Input::Gossip { id: id.0, from, body }),
            MeshEvent::PeerConnected(peer) | MeshEvent::PeerSubscribed(peer) => self.input(Input::PeerConnected(peer)),
            MeshEvent::PeerDisconnected(peer) => {
                self.latencies.remove(&peer);
                self.paths.remove(&peer);
                self.input(Input::PeerDisconnected(peer));
            }
            MeshEvent::PeerIdentified { peer, addrs, .. } => {
                let known = KnownPeer { peer, addrs, seen_ms: clock::now().0 };
                if let Err(fault) = self.store.remember_peer(&known) {
                    tracing::warn!(%fault, "a peer's address is not remembered");
                }
            }
            MeshEvent::Stream { from, stream } => self.serve_tunnel(from, stream),
            MeshEvent::Reachability { state, why, addrs } => {
                tracing::info!(state = state.as_str(), %why, ?addrs, "reachability");
                self.reachability = (state, why);
                self.input(Input::Addresses(addrs.iter().filter_map(|addr| addr.parse().ok()).collect()));
            }
            MeshEvent::Anchors(anchors) => {
                if let Err(fault) = self.store.keep_anchors(&anchors) {
                    tracing::warn!(%fault, "the anchors are not remembered");
                }
            }
            MeshEvent::Listening(addr) => tracing::info!(%addr, "listening"),
            MeshEvent::ListenClosed(addr) => tracing::warn!(%addr, "no longer listening"),
            MeshEvent::BootstrapFailed { addr, why } => {
                tracing::warn!(%addr, %why, "cannot join through this address; trying on");
            }
            MeshEvent::Refused { peer, why } => {
                tracing::debug!(%peer, why = why.as_str(), "refused");
                // Our side looks at the length before it sends. The other reasons are what a busy peer meets, too.
                if why == Refused::Oversized {
                    self.offended(peer, "a message that is too long", ErrorCode::InvalidRequest);
                }
            }
        }
    }

    fn serve_tunnel(&self, from: PeerId, stream: crate::mesh::BoxedStream) {
        let Some(provider) = self.provider.clone() else { return };
        let gate = Gate { internal: self.internal.clone(), provider };
        tokio::spawn(async move { tunnel::serve(from, stream, &gate).await });
    }

    fn internal(&mut self, message: Internal) {
        match message {
            Internal::ClientGone(id) => self.client_gone(id),
            Internal::MayTunnel { from, open, answer } => {
                let now = clock::now();
                let verdict = match open.log {
                    None => self.core.authorise_tunnel(now, from, open.lease_id),
                    Some(_) => self.core.authorise_log(now, from, open.lease_id),
                };
                // A tunnel that was given up meanwhile needs no verdict.
                let _ = answer.send(verdict);
            }
            Internal::Offering(offering) => self.surveyed(offering),
            Internal::Measured(at, measured) => self.measured(at, measured),
            Internal::Inventory(found) => self.input(Input::Inventory(found)),
            Internal::Restored => self.restored(),
        }
    }

    async fn housekeep(&mut self) {
        self.last_run.keep(clock::now());
        self.look_for_room();
        self.measure();
        self.survey();
        self.take_inventory();
        self.keep_partners().await;
        // A provider's leases begin and end without a rental of ours.
        self.pin_leased().await;
        self.end_bans().await;
        if let Ok(peers) = self.mesh.peers().await {
            self.latencies = peers.iter().filter_map(|peer| Some((peer.peer, peer.rtt_ms?))).collect();
            self.paths = peers.iter().map(|peer| (peer.peer, peer.path)).collect();
        }
    }

    /// Who holds our advert or our shards is turned to again within two minutes.
    async fn keep_partners(&mut self) {
        let partners = self.core.shards().partners();
        if partners != self.partners && self.mesh.keep(partners.clone()).await.is_ok() {
            self.partners = partners;
        }
    }

    /// Withdraws the advert and lets it go out; leases and guests stay.
    async fn stop(mut self) -> Result<(), Fault> {
        self.mesh.shutdown().await;
        if let Some(provider) = &self.provider {
            provider.backend.close().await;
        }
        if let Some(answer) = self.stopping.take() {
            // Whoever asked may be gone.
            let _ = answer.send(Ok(()));
        }
        Ok(())
    }
}

/// An address that is too long or strange for an advert is of no use to anybody.
fn routing_server(server: &crate::mesh::RoutingServer) -> Arc<protocol::shard::Server> {
    let addrs = server.addrs.iter().filter_map(|addr| addr.parse().ok()).take(protocol::advert::MAX_ADDRS).collect();
    protocol::shard::Server::new(server.peer, addrs)
}

fn failure(error: RpcError) -> RpcFailure {
    match error {
        RpcError::Timeout(_) | RpcError::Disconnected => RpcFailure::Timeout,
        other => RpcFailure::Unreachable(other.to_string()),
    }
}

/// How a tunnel's task asks for the way.
struct Gate {
    internal: mpsc::Sender<Internal>,
    provider: Arc<ProviderParts>,
}

impl Gate {
    async fn admits(&self, from: PeerId, open: TunnelOpen) -> Result<(), Refusal> {
        let (answer, verdict) = oneshot::channel();
        let stopping = |_| Refusal::NotProviding;
        self.internal.send(Internal::MayTunnel { from, open, answer }).await.map_err(|_| Refusal::NotProviding)?;
        verdict.await.map_err(stopping)?
    }
}

impl tunnel::Gate for Gate {
    async fn log(&self, from: PeerId, open: TunnelOpen, most: u32) -> Result<Vec<u8>, Refusal> {
        self.admits(from, open).await?;
        self.provider.backend.console_tail(open.lease_id, most as usize).await.map_err(Refusal::Backend)
    }
    async fn endpoint(&self, from: PeerId, open: TunnelOpen) -> Result<SocketAddr, Refusal> {
        self.admits(from, open).await?;
        self.provider.backend.endpoint(open.lease_id, open.port).await.map_err(Refusal::Backend)
    }
}
