//! What is measured of one fleet, and what it was told.
use super::Counted;
use super::arrivals::Spread;
use crate::model::links::{self as model, Delays};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Our node: its core, its store, its mesh, the memory backend.
    Ours,
    /// gossipsub, Kademlia and identify of libp2p with its defaults. It ends in a full mesh.
    Bare,
    /// gossipsub and identify, each node connected to a few others by hand: what gossip alone can do.
    GossipOnly,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Bare, Kind::GossipOnly, Kind::Ours];
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Bare => "bare",
            Kind::GossipOnly => "gossip-only",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub kind: Kind,
    pub nodes: usize,
    /// Of ours, nodes that offer something; each says something new at most every 5 s, so they take turns.
    pub providers: usize,
    /// Of ours, adverts of a full leaf of the sharded board, if it is to be another than the usual.
    pub leaf: Option<usize>,
    pub messages: usize,
    pub spacing_ms: u64,
    /// Of ours, small VMs that a provider lets at once, if it is to be other than a large host's share.
    pub vms: Option<u32>,
    /// Every link has a delay of its own, one way.
    pub delays: Delays,
    pub seed: u64,
    /// It has settled when nobody has connected to anybody for so long: more than a visit takes.
    pub quiet_ms: u64,
    pub settle_within_s: u64,
}

impl Setup {
    pub fn new(kind: Kind, nodes: usize) -> Self {
        Setup {
            kind,
            nodes,
            providers: 20,
            leaf: None,
            messages: 20,
            spacing_ms: 1000,
            vms: None,
            delays: Delays::Uniform { least: 20, most: 50 },
            seed: 1,
            quiet_ms: 12_000,
            settle_within_s: 400,
        }
    }
    pub fn spacing(&self) -> Duration {
        Duration::from_millis(self.spacing_ms.max(1))
    }
    pub fn quiet(&self) -> Duration {
        Duration::from_millis(self.quiet_ms)
    }
    pub fn settle_within(&self) -> Duration {
        Duration::from_secs(self.settle_within_s)
    }
    pub(super) fn links(&self) -> node::mesh::link::Links {
        use node::mesh::link::Links;
        let ms = |ms: u16| Duration::from_millis(ms.into());
        match self.delays {
            Delays::Uniform { least, most } => Links::uniform(ms(least)..=ms(most), self.seed),
            Delays::Cities => {
                let cities = model::Links::new(Delays::Cities, 0, 0);
                let city = |peer: protocol::PeerId| u16::from(peer.public_key()[0]) % model::Links::cities() as u16;
                Links::new(move |one, other| Duration::from_millis(cities.usual((0, city(one)), (1, city(other)))))
            }
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.nodes, self.kind.as_str())
    }
}

/// From one moment to another.
pub(super) struct Phase {
    pub took: Duration,
    pub cpu: Duration,
    pub counted: Counted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub setup: Setup,
    /// From a message being said until half, 99 % and all of the others showed it: the median over all messages; none
    /// if some message did not get so far.
    pub t50_ms: Option<f64>,
    pub t99_ms: Option<f64>,
    pub t100_ms: Option<f64>,
    /// Of all pairs of a message and another node, how many came together.
    pub reached: f64,
    /// Copies that a node gets of a message.
    pub copies: f64,
    pub connections_mean: f64,
    pub connections_max: usize,
    /// What the process grew by, for each node.
    pub rss_mib: f64,
    pub join_s: f64,
    /// Of one node, until all have settled.
    pub join_cpu_s: f64,
    pub join_kib: f64,
    /// Of one node, for each second in which messages were said.
    pub cpu_ms_per_s: f64,
    pub bytes_per_s: f64,
    pub requests_per_s: f64,
}

impl Figures {
    pub(super) fn new(
        setup: Setup,
        connections: &[usize],
        join: &Phase,
        steady: &Phase,
        rss: u64,
        spreads: &[Spread],
    ) -> Self {
        let nodes = setup.nodes.max(1) as f64;
        let pairs: usize = spreads.iter().map(|spread| spread.others).sum();
        let came: usize = spreads.iter().map(|spread| spread.took.len()).sum();
        let seconds = steady.took.as_secs_f64();
        Figures {
            t50_ms: median(spreads, 50),
            t99_ms: median(spreads, 99),
            t100_ms: median(spreads, 100),
            reached: came as f64 / pairs.max(1) as f64,
            copies: steady.counted.copies as f64 / steady.counted.firsts.max(1) as f64,
            connections_mean: connections.iter().sum::<usize>() as f64 / nodes,
            connections_max: connections.iter().copied().max().unwrap_or(0),
            rss_mib: rss as f64 / nodes / (1 << 20) as f64,
            join_s: join.took.as_secs_f64() - setup.quiet().as_secs_f64(),
            join_cpu_s: join.cpu.as_secs_f64() / nodes,
            join_kib: join.counted.bytes_out as f64 / nodes / 1024.0,
            cpu_ms_per_s: steady.cpu.as_secs_f64() * 1000.0 / nodes / seconds,
            bytes_per_s: steady.counted.bytes_out as f64 / nodes / seconds,
            requests_per_s: steady.counted.requests as f64 / nodes / seconds,
            setup,
        }
    }
}

fn median(spreads: &[Spread], percent: usize) -> Option<f64> {
    let mut times = spreads.iter().map(|spread| spread.reached(percent)).collect::<Option<Vec<Duration>>>()?;
    times.sort();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1000.0)
}
