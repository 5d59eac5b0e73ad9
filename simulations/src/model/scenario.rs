//! What a scenario file says: `docs/simulations.md` has it as a table. Everything has a default but the size and the
//! length; an unknown word, or a value out of its bounds, is an error that names line and key.
use super::links::Delays;
use protocol::Fault;
use serde::{Deserialize, Serialize};

/// A run is of days at most, and of as many nodes as a large machine has memory for.
const MOST_MINUTES: u64 = 24 * 60;
const MOST_NODES: u32 = 2_000_000;
/// VMs of one provider, ids of one attack, creates of one minute: beyond it a run would only be slow.
const MOST_VMS: u32 = 64;
const MOST_IDS: u32 = 1_000;
const MOST_CREATES: f64 = 1_000_000.0;
/// A day.
const MOST_SECONDS: u64 = 86_400;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    #[serde(default)]
    pub seed: u64,
    pub minutes: u64,
    /// Adverts above which a leaf splits.
    #[serde(default = "leaf")]
    pub leaf: usize,
    /// A provider that has been up for so long is looked for when recall is counted.
    #[serde(default = "settled")]
    pub settled_s: u64,
    pub nodes: Nodes,
    #[serde(default)]
    pub links: LinksSpec,
    #[serde(default)]
    pub requests: Requests,
    #[serde(default)]
    pub churn: Option<Churn>,
    #[serde(default)]
    pub partition: Option<Partition>,
    #[serde(default)]
    pub attack: Option<Attack>,
    #[serde(default)]
    pub expect: Expect,
    /// The size that is run by `--full`.
    #[serde(default)]
    pub full: Full,
}

fn leaf() -> usize {
    protocol::shard::LEAF
}
/// One refresh, wherever it first stood.
fn settled() -> u64 {
    130
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    pub providers: u32,
    #[serde(default)]
    pub requestors: u32,
    /// Of a hundred providers, those that everybody can reach, and that serve the routing.
    #[serde(default = "public")]
    pub public: u32,
    /// All start within this.
    #[serde(default = "ramp")]
    pub ramp_s: u64,
    /// Small VMs that a provider lets at once.
    #[serde(default = "vms")]
    pub vms: u32,
    /// Clocks are off by up to this, either way.
    #[serde(default)]
    pub skew_s: u64,
}

/// Of the nodes that a crawl of a large Kademlia network sees, about so many serve.
fn public() -> u32 {
    35
}
fn ramp() -> u64 {
    120
}
fn vms() -> u32 {
    4
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinksSpec {
    pub delays: Delays,
    /// In percent of the delay.
    pub jitter: u64,
    /// In percent of the messages; they come later.
    pub loss: u32,
}

/// Creates of the requestors, as they arrive.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// On average; they arrive independently of each other.
    pub per_minute: f64,
    pub from_minute: u64,
    /// So many more, all within ten seconds.
    pub flash: u32,
    pub flash_minute: u64,
    /// A VM is given back so long after it has run; on average.
    pub lifetime_s: u64,
    /// Of a hundred, those that are never given back: their leases end by themselves.
    pub abandoned: u32,
    /// What the lease is for.
    pub lease_s: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Requests {
            per_minute: 0.0,
            from_minute: 0,
            flash: 0,
            flash_minute: 0,
            lifetime_s: 120,
            abandoned: 10,
            lease_s: 600,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Of a hundred nodes, those that are replaced by new ones in a minute.
    pub percent_per_minute: f64,
    /// Of a hundred of those, who end without a word.
    #[serde(default = "silent")]
    pub silent: u32,
    #[serde(default)]
    pub from_minute: u64,
}

fn silent() -> u32 {
    50
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    pub from_minute: u64,
    pub minutes: u64,
    /// Of a hundred nodes, those on the one side.
    #[serde(default = "silent")]
    pub percent: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attack {
    /// So many adverts for each honest one, from providers that are not there, out of so many /24.
    SybilAdverts { ratio: u32, blocks: u32, from_minute: u64 },
    /// So many ids ground to lie at one leaf, out of so many /16; they take everything and show nothing.
    Eclipse { ids: u32, nets: u32, from_minute: u64 },
    /// Of a hundred servers, those that answer lookups with their own kind.
    FalseRouters { percent: u32 },
    /// Of a hundred servers, those that take everything and show nothing.
    SilentHolders { percent: u32 },
    /// So many adverts and gossip messages a minute whose signatures do not fit.
    Forgers { per_minute: u32, from_minute: u64 },
}

/// What must hold in each minute after this one; what is not named is not checked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    pub from_minute: u64,
    /// At least: of live adverts, those that would be found.
    pub recall: Option<f64>,
    /// At least: the mean of these minutes.
    pub recall_mean: Option<f64>,
    /// At least: the same, of those at the key that is eclipsed.
    pub target_recall: Option<f64>,
    /// At most: bytes a second, of the busier direction.
    pub mean: Option<f64>,
    pub p99: Option<f64>,
    pub busiest: Option<f64>,
    /// At most: bytes of honest nodes against those in the minute before `from_minute` of the attack.
    pub cost_ratio: Option<f64>,
    /// At most: of adverts on shelves, those whose provider is gone.
    pub dead_share: Option<f64>,
    /// At least, over all minutes: first accepts that were granted; creates that came to a running VM; lookups that
    /// found one of the closest at least.
    pub first_accept: Option<f64>,
    pub created: Option<f64>,
    pub lookups: Option<f64>,
    /// At most, over all minutes.
    pub discover_p99_ms: Option<u64>,
    pub rounds_p99: Option<u8>,
    /// At least, at the end: a tree that is a root shows little.
    pub deepest: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Full {
    pub nodes: Option<u32>,
    pub minutes: Option<u64>,
    pub leaf: Option<usize>,
    /// In place of the other one.
    pub expect: Option<Expect>,
}

/// Where a key stands, for who has to mend it: in its section, or where the section itself is.
fn line_of(text: &str, key: &str) -> usize {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let (mut current, mut fallback) = (String::new(), 1);
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = head.trim().to_owned();
            fallback = if current == section { number } else { fallback };
        }
        let word = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if current == section && word == name {
            return number;
        }
        if current.is_empty() && word == section {
            fallback = number;
        }
    }
    fallback
}

struct Bounds<'a> {
    text: &'a str,
}

impl Bounds<'_> {
    fn wrong(&self, key: &str, why: String) -> Fault {
        Fault::invalid(format!("line {}: {key} {why}", line_of(self.text, key)))
            .hint("docs/simulations.md has every key with its bounds")
    }
    fn within<T: PartialOrd + std::fmt::Display>(&self, key: &str, value: T, least: T, most: T) -> Result<(), Fault> {
        if value >= least && value <= most {
            return Ok(());
        }
        Err(self.wrong(key, format!("is {value}, and can be {least} to {most}")))
    }
}

impl Scenario {
    pub fn read(text: &str) -> Result<Scenario, Fault> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            Fault::invalid(format!("line {line}: {message}"))
                .hint("docs/simulations.md has every key; simulations/scenarios has files to begin with")
        })?;
        scenario.check(text)?;
        Ok(scenario)
    }

    fn check(&self, text: &str) -> Result<(), Fault> {
        let bounds = Bounds { text };
        let (nodes, requests) = (&self.nodes, &self.requests);
        bounds.within("minutes", self.minutes, 1, MOST_MINUTES)?;
        bounds.within("leaf", self.leaf, 8, 4096)?;
        bounds.within("settled_s", self.settled_s, 0, MOST_SECONDS)?;
        bounds.within("nodes.providers", nodes.providers, 1, MOST_NODES)?;
        bounds.within("nodes.requestors", nodes.requestors, 0, MOST_NODES)?;
        bounds.within("nodes.public", nodes.public, 1, 100)?;
        bounds.within("nodes.ramp_s", nodes.ramp_s, 0, MOST_SECONDS)?;
        bounds.within("nodes.vms", nodes.vms, 1, MOST_VMS)?;
        bounds.within("nodes.skew_s", nodes.skew_s, 0, 3600)?;
        bounds.within("links.loss", self.links.loss, 0, 100)?;
        bounds.within("links.jitter", self.links.jitter, 0, 1000)?;
        if let Delays::Uniform { least, most } = self.links.delays {
            bounds.within("links.delays", least, 0, most)?;
        }
        bounds.within("requests.per_minute", requests.per_minute, 0.0, MOST_CREATES)?;
        bounds.within("requests.flash", f64::from(requests.flash), 0.0, MOST_CREATES)?;
        bounds.within("requests.lifetime_s", requests.lifetime_s, 1, MOST_SECONDS)?;
        bounds.within("requests.lease_s", requests.lease_s, 60, MOST_SECONDS)?;
        bounds.within("requests.abandoned", requests.abandoned, 0, 100)?;
        if nodes.requestors == 0 && (requests.per_minute > 0.0 || requests.flash > 0) {
            return Err(bounds.wrong("nodes.requestors", "is 0: nobody would make the creates of [requests]".into()));
        }
        if let Some(churn) = &self.churn {
            bounds.within("churn.percent_per_minute", churn.percent_per_minute, 0.0, 100.0)?;
            bounds.within("churn.silent", churn.silent, 0, 100)?;
        }
        if let Some(partition) = &self.partition {
            bounds.within("partition.percent", partition.percent, 1, 99)?;
            bounds.within("partition.minutes", partition.minutes, 1, MOST_MINUTES)?;
        }
        self.check_attack(&bounds)?;
        bounds.within("full.nodes", self.full.nodes.unwrap_or(1), 1, MOST_NODES)?;
        bounds.within("full.minutes", self.full.minutes.unwrap_or(1), 1, MOST_MINUTES)?;
        bounds.within("full.leaf", self.full.leaf.unwrap_or(8), 8, 4096)?;
        let last = self.full.minutes.unwrap_or(self.minutes);
        bounds.within("expect.from_minute", self.expect.from_minute, 0, self.minutes)?;
        bounds.within("full.expect.from_minute", self.full.expect.map_or(0, |expect| expect.from_minute), 0, last)
    }

    fn check_attack(&self, bounds: &Bounds) -> Result<(), Fault> {
        match self.attack {
            Some(Attack::SybilAdverts { ratio, blocks, .. }) => {
                bounds.within("attack.ratio", ratio, 1, 100)?;
                bounds.within("attack.blocks", blocks, 1, 1 << 20)
            }
            Some(Attack::Eclipse { ids, nets, .. }) => {
                bounds.within("attack.ids", ids, 1, MOST_IDS)?;
                bounds.within("attack.nets", nets, 1, MOST_IDS)
            }
            Some(Attack::FalseRouters { percent } | Attack::SilentHolders { percent }) => {
                bounds.within("attack.percent", percent, 0, 90)
            }
            Some(Attack::Forgers { per_minute, .. }) => bounds.within("attack.per_minute", per_minute, 1, 100_000),
            None => Ok(()),
        }
    }

    pub fn size(&self) -> u32 {
        self.nodes.providers + self.nodes.requestors
    }

    /// As large as this: what is counted in nodes or in creates grows alike, attacks by ground ids stay as they are.
    pub fn sized(mut self, nodes: u32) -> Scenario {
        let by = f64::from(nodes) / f64::from(self.size().max(1));
        let scaled = |count: u32| match count {
            0 => 0,
            some => ((f64::from(some) * by).round() as u32).max(1),
        };
        self.nodes.requestors = scaled(self.nodes.requestors);
        self.nodes.providers = nodes.saturating_sub(self.nodes.requestors).max(1);
        self.requests.per_minute *= by;
        self.requests.flash = scaled(self.requests.flash);
        self
    }

    /// As `[full]` has it.
    pub fn full(mut self) -> Scenario {
        let full = self.full;
        self.minutes = full.minutes.unwrap_or(self.minutes);
        self.leaf = full.leaf.unwrap_or(self.leaf);
        self.expect = full.expect.unwrap_or(self.expect);
        match full.nodes {
            Some(nodes) => self.sized(nodes),
            None => self,
        }
    }
}
