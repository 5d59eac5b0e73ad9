//! Our nodes: each with its home, its store, its core, its mesh and the memory backend, as `golemnode node run` has it,
//! but for the socket of the local API. A message is an advert: a provider's host changes what it has, and the advert
//! that follows is waited for on every other node's board. A change is told from others by its memory.
use super::arrivals::Arrivals;
use super::{Counted, Fleet, Setup};
use crate::rng::Dice;
use backends::images::ImageStore;
use backends::memory::{MemoryBackend, MemoryOptions};
use node::config::{Home, NodeConfig, Settings};
use node::mesh::Carriers;
use node::{Node, Observer, ProviderParts, Tuning};
use protocol::core::NodeCore;
use protocol::core::provider::OfferedImage;
use protocol::names::ImageName;
use protocol::units::{DiskGib, MemoryMib, Resources};
use protocol::{Fault, Keypair, PeerId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Nodes that the others are told of.
const BOOTSTRAP: usize = 3;
/// Fleets of this process, each with addresses of its own.
static FLEETS: AtomicU32 = AtomicU32::new(0);
/// Nodes of a fleet, at most.
pub const MOST: usize = 1024;
/// Everybody lives in a /16 of its own, from 16.0.0.0 on: of one subnet only two hold the same shard. Nothing of this
/// leaves the process.
const FIRST_SUBNET: u32 = 0x1000;
/// What a provider keeps back of its host's memory.
const RESERVE: u64 = 1024;
/// What a provider lets at first, in MiB: more with each message, and always of the largest tier.
const LEAST: u64 = 32 * 1024;

pub struct Ours {
    nodes: Vec<LiveNode>,
    expected: Expected,
    /// Removed with everything in it at the end.
    _homes: tempfile::TempDir,
}

pub struct LiveNode {
    pub peer: PeerId,
    pub node: Node,
    host: Option<MemoryBackend>,
    stands: watch::Receiver<Stands>,
}

/// How a provider's advert stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    pub lets: MemoryMib,
    /// Holders that have taken it, in the tree where it is the fewest.
    pub acknowledged: usize,
    /// Of its place in the tree.
    pub depth: u8,
    /// The mesh is small, as far as this provider knows.
    pub gossips: bool,
}

/// The adverts that are waited for: whose, and with how much memory.
#[derive(Clone, Default)]
struct Expected(Arc<Mutex<Vec<(PeerId, MemoryMib)>>>);

impl Expected {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<(PeerId, MemoryMib)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a node's board whenever it has changed.
    fn watch(&self, me: usize, arrivals: &Arrivals) -> Observer {
        let (expected, arrivals) = (self.clone(), arrivals.clone());
        let (mut revision, mut seen) = (0, Vec::new());
        Box::new(move |core: &NodeCore| {
            let now = core.board().revision();
            if std::mem::replace(&mut revision, now) == now {
                return;
            }
            let at = Instant::now();
            let list = expected.list();
            seen.resize(list.len(), false);
            for (message, (provider, memory)) in list.iter().enumerate() {
                let entry = core.board().get(node::clock::now(), *provider);
                if seen[message] || entry.is_none_or(|entry| entry.advert.terms.largest.memory_mib != *memory) {
                    continue;
                }
                seen[message] = true;
                if core.me() == *provider {
                    arrivals.said(message, me, at);
                }
                arrivals.came(message, me, at);
            }
        })
    }
}

impl Ours {
    pub fn nodes(&self) -> &[LiveNode] {
        &self.nodes
    }
    pub fn providers(&self) -> impl Iterator<Item = &LiveNode> {
        self.nodes.iter().filter(|live| live.provides())
    }
}

impl LiveNode {
    pub fn provides(&self) -> bool {
        self.host.is_some()
    }
    pub(super) fn counted(&self) -> Counted {
        let metrics = self.node.mesh.metrics();
        Counted {
            opened: metrics.connections_opened,
            bytes_in: metrics.bytes_in,
            bytes_out: metrics.bytes_out,
            requests: metrics.requests_out,
            firsts: metrics.gossip_in,
            copies: metrics.gossip_copies,
        }
    }
    /// How its advert stands, from now on.
    pub fn stands(&self) -> watch::Receiver<Stands> {
        self.stands.clone()
    }
    /// Has its host say that it has something else to let. Returns what it lets from now on.
    pub async fn lets_something_else(&self, change: usize) -> Result<MemoryMib, Fault> {
        let lets = changed(change);
        if let Some(host) = &self.host {
            host.tune(|options| options.host.memory_mib = MemoryMib(lets.0 + RESERVE));
        }
        self.node.handle.rescan_images().await?;
        Ok(lets)
    }
}

/// What is let after so many changes.
fn changed(change: usize) -> MemoryMib {
    MemoryMib(LEAST + 1 + change as u64)
}

/// Tells how this provider's own advert stands.
fn watch_own(stands: watch::Sender<Stands>) -> Observer {
    Box::new(move |core: &NodeCore| {
        let own = core.board().get(node::clock::now(), core.me());
        let shards = core.shards();
        let now = Stands {
            lets: own.map(|entry| entry.advert.terms.largest.memory_mib).unwrap_or_default(),
            acknowledged: shards.acknowledged(),
            depth: shards.depths().map(|(_, depth)| depth).max().unwrap_or(0),
            gossips: shards.gossips(),
        };
        stands.send_if_modified(|stands| std::mem::replace(stands, now) != now);
    })
}

fn both(mut one: Observer, mut other: Observer) -> Observer {
    Box::new(move |core: &NodeCore| {
        one(core);
        other(core);
    })
}

impl Fleet for Ours {
    async fn start(setup: &Setup, arrivals: &Arrivals) -> Result<Self, Fault> {
        let homes = tempfile::Builder::new().prefix("golemnode-live").tempdir();
        let homes = homes.map_err(|error| Fault::internal(format!("no folder for the homes: {error}")))?;
        if setup.nodes > MOST {
            return Err(Fault::invalid(format!(
                "{} nodes are too many for one process, {MOST} are the most",
                setup.nodes
            )));
        }
        let first = FLEETS.fetch_add(1, Ordering::Relaxed) * MOST as u32;
        let mut dice = Dice::new(setup.seed);
        let expected = Expected::default();
        // Providers stand evenly among the others, so that they joined early, late and in between.
        let many = setup.providers.min(setup.nodes);
        let offering: Vec<usize> = (0..many).map(|index| index * setup.nodes / many).collect();
        let (mut nodes, mut bootstrap) = (Vec::new(), Vec::new());
        for at in 0..setup.nodes {
            let identity = Keypair::from_secret(&dice.bytes());
            let peer = identity.peer_id();
            let [a, b, ..] = ((FIRST_SUBNET + first + at as u32) << 16).to_be_bytes();
            let addr = format!("/ip4/{a}.{b}.0.1/tcp/4001");
            let settings = Settings::default();
            let config = NodeConfig {
                home: Home::find(Some(homes.path().join(at.to_string())))?,
                identity,
                network: "live".parse()?,
                carriers: Carriers::Memory(setup.links()),
                listen: vec![addr.clone()],
                bootstrap: bootstrap.clone(),
                mdns: false,
                relay: settings.relay,
                upnp: false,
                default_image: settings.default_image,
                provide: offering.contains(&at),
                provider: settings.provider,
                idle_exit: None,
            };
            let (sender, stands) = watch::channel(Stands::default());
            let host = config.provide.then(|| host(setup.vms));
            let parts = host.clone().map(|host| parts(&config, host)).transpose()?;
            let seen = expected.watch(at, arrivals);
            let observer = if config.provide { both(seen, watch_own(sender)) } else { seen };
            let node = node::start(&config, parts, Tuning { observer: Some(observer), leaf: setup.leaf }).await?;
            if at < BOOTSTRAP {
                bootstrap.push(format!("{addr}/p2p/{peer}"));
            }
            nodes.push(LiveNode { peer, node, host, stands });
        }
        Ok(Ours { nodes, expected, _homes: homes })
    }

    fn counted(&self) -> Counted {
        self.nodes.iter().map(LiveNode::counted).fold(Counted::default(), |all, one| all + one)
    }

    async fn connections(&self) -> Result<Vec<usize>, Fault> {
        let mut connections = Vec::new();
        for live in &self.nodes {
            connections.push(live.node.mesh.peers().await?.len());
        }
        Ok(connections)
    }

    async fn publish(&self, message: usize) -> Result<(), Fault> {
        let providers: Vec<&LiveNode> = self.providers().collect();
        let nobody = || Fault::invalid("nobody offers anything, so nobody has anything to say");
        let provider = *providers.get(message % providers.len().max(1)).ok_or_else(nobody)?;
        self.expected.list().push((provider.peer, changed(message)));
        provider.lets_something_else(message).await.map(|_| ())
    }

    async fn stop(self) -> Result<(), Fault> {
        let stopping = self.nodes.into_iter().map(|live| live.node.stop());
        futures::future::join_all(stopping).await.into_iter().collect()
    }
}

fn host(vms: Option<u32>) -> MemoryBackend {
    let host = MemoryBackend::default();
    let lets = vms.map_or(LEAST, |vms| Resources::SMALL.memory_mib.0 * u64::from(vms));
    host.tune(|options| options.host.memory_mib = MemoryMib(lets + RESERVE));
    host
}

fn parts(config: &NodeConfig, host: MemoryBackend) -> Result<ProviderParts, Fault> {
    let name: ImageName = "tiny".parse()?;
    let digest = MemoryOptions::digest_of(name.as_str());
    let image = OfferedImage { digest, user: "root".parse()?, least_disk: DiskGib(1) };
    Ok(ProviderParts {
        backend: Arc::new(host),
        images: ImageStore::new(config.home.images()),
        simulated: BTreeMap::from([(name, image)]),
        settings: config.provider.clone(),
    })
}
