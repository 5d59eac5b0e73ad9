//! What there was at the end of a minute, and over a whole run.
use super::Id;
use super::member::{Nature, Node};
use super::meter::{KINDS, Kind};
use super::run::{MINUTE, Run};
use protocol::shard::{Index, Shard};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Providers are looked for one by one up to so many; of more, so many at even distances are.
const SAMPLE: usize = 2_000;
/// Connections that a full node keeps whatever happens: each is pinged.
const NEIGHBOURS: usize = 24;

/// What there was at the end of a minute. Bytes are those of honest nodes: sent, received, a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Minute {
    pub minute: u64,
    pub nodes: usize,
    pub providers: usize,
    pub mean: [f64; 2],
    pub p99: [f64; 2],
    pub busiest: [f64; 2],
    /// The mean, by what it was for.
    pub kinds: BTreeMap<&'static str, [f64; 2]>,
    /// Of the adverts of live providers, those that a requestor would find now.
    pub recall: f64,
    /// The same, of those at the key that is eclipsed.
    pub target_recall: Option<f64>,
    /// Of the adverts on shelves, those whose provider is gone.
    pub dead_share: f64,
    /// Shards in which something stands, and how deep the deepest lies.
    pub shards: usize,
    pub deepest: u8,
    /// Adverts on the shelves of one server: the mean and the most.
    pub held_mean: f64,
    pub held_most: usize,
    pub lookups: usize,
    pub lookups_failed: u64,
    pub rounds_p50: u8,
    pub rounds_p99: u8,
    /// Creates that were asked for in this minute, that ran, and that failed.
    pub asked: usize,
    pub done: usize,
    pub failed: usize,
    pub discover_p50_ms: u64,
    pub discover_p99_ms: u64,
    /// Of the first accepts that were answered in this minute's creates, those that were granted.
    pub first_accept: Option<f64>,
    /// Bytes of these two minutes against those of the two before the attack.
    pub cost_ratio: Option<f64>,
    pub events: u64,
}

/// Over a whole run, from the minute on that `[expect]` names: the worst minute, or a share of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub scenario: String,
    pub seed: u64,
    pub nodes: u32,
    pub minutes: usize,
    pub leaf: usize,
    /// Two runs with one trace sent the same, in the same order.
    pub trace: String,
    pub events: u64,
    pub node_seconds: u64,
    pub recall: f64,
    pub recall_mean: f64,
    pub target_recall: Option<f64>,
    pub dead_share: f64,
    pub mean: f64,
    pub p99: f64,
    pub busiest: f64,
    pub cost_ratio: Option<f64>,
    pub shards: usize,
    pub deepest: u8,
    pub lookups: Option<f64>,
    pub rounds_p50: u8,
    pub rounds_p99: u8,
    pub asked: usize,
    pub done: usize,
    pub failed: usize,
    /// By code.
    pub failures: BTreeMap<String, usize>,
    pub created: Option<f64>,
    pub first_accept: Option<f64>,
    pub discover_p50_ms: u64,
    pub discover_p99_ms: u64,
    pub ready_p50_ms: u64,
    pub ready_p99_ms: u64,
}

/// What was seen up to the last minute.
#[derive(Default)]
pub(super) struct Seen {
    bytes: Vec<(u64, u64)>,
    kinds: [(u64, u64); KINDS.len()],
    rounds: usize,
    failed_lookups: u64,
    creates: usize,
    node_seconds: u64,
    /// Where the lookups began that count for what is expected.
    from: (usize, u64),
}

/// The nearest rank.
pub fn percentile<T: Copy + PartialOrd + Default>(values: &mut [T], percent: usize) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

impl Run {
    /// Pings of a minute, on every connection that is up: no event each, for they are half of all otherwise.
    fn pings(&mut self) {
        let (now, each) = (self.model.now, self.model.wire.ping_per_connection * (MINUTE / 1000) as f64);
        let usual = NEIGHBOURS.min(self.model.nodes.iter().filter(|node| node.is_up()).count().saturating_sub(1));
        for node in self.model.nodes.iter_mut().filter(|node| node.core.is_some()) {
            let open = node.connections.iter().filter(|(_, until)| *until > now).count();
            let bytes = (each * open.max(usual) as f64) as usize;
            node.meter.send(Kind::Upkeep, bytes);
            node.meter.receive(Kind::Upkeep, bytes);
        }
    }

    pub(super) fn observe(&mut self, minute: u64) -> Minute {
        self.pings();
        let mut seen = Minute { minute, events: self.model.events, ..Minute::default() };
        self.bytes(&mut seen);
        self.board(&mut seen);
        self.routing(&mut seen);
        self.users(&mut seen);
        self.cost(&mut seen);
        self.seen.node_seconds += seen.nodes as u64 * MINUTE / 1000;
        if minute <= self.scenario.expect.from_minute {
            self.seen.from = (self.model.rounds.len(), self.model.failed_lookups);
        }
        seen
    }

    fn up(&self) -> impl Iterator<Item = (Id, &Node)> {
        (0..).zip(&self.model.nodes).filter(|(_, node)| node.core.is_some())
    }

    fn bytes(&mut self, seen: &mut Minute) {
        let seconds = (MINUTE / 1000) as f64;
        let mut before = std::mem::take(&mut self.seen.bytes);
        before.resize(self.model.nodes.len(), (0, 0));
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for (id, node) in self.up() {
            let (was_sent, was_received) = before[id as usize];
            sent.push((node.meter.sent() - was_sent) as f64 / seconds);
            received.push((node.meter.received() - was_received) as f64 / seconds);
            seen.providers += usize::from(node.offer.is_some());
        }
        for (before, node) in before.iter_mut().zip(&self.model.nodes) {
            *before = (node.meter.sent(), node.meter.received());
        }
        self.seen.bytes = before;
        seen.nodes = sent.len();
        for (way, values) in [sent, received].iter_mut().enumerate() {
            seen.mean[way] = values.iter().sum::<f64>() / values.len().max(1) as f64;
            seen.p99[way] = percentile(values, 99);
            seen.busiest[way] = values.last().copied().unwrap_or_default();
        }
        for (n, (kind, name)) in KINDS.iter().enumerate() {
            // Of all honest ones that ever were, so that it does not fall when one leaves.
            let honest = self.model.nodes.iter().filter(|node| node.nature == Nature::Honest);
            let now = honest.map(|node| node.meter.of(*kind)).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            let was = std::mem::replace(&mut self.seen.kinds[n], now);
            let each = |bytes: u64| bytes as f64 / seconds / seen.nodes.max(1) as f64;
            seen.kinds.insert(name, [each(now.0 - was.0), each(now.1 - was.1)]);
        }
    }

    fn board(&self, seen: &mut Minute) {
        let settled = self.scenario.settled_s * 1000;
        seen.recall = self.model.recall_of(settled, SAMPLE, |_| true).0;
        let target = self.target.as_ref();
        seen.target_recall = target.map(|leaf| self.model.recall_of(settled, SAMPLE, |peer| leaf.takes_peer(peer)).0);
        seen.dead_share = self.model.dead_share();
        let mut shards: BTreeSet<&Shard> = BTreeSet::new();
        let (mut servers, mut held) = (0, 0);
        for (_, node) in self.up() {
            let Some(core) = node.core.as_ref().filter(|_| node.public) else { continue };
            let here = core.shards().adverts_held();
            (servers, held) = (servers + 1, held + here);
            seen.held_most = seen.held_most.max(here);
            let filled = core.shards().shelves().filter(|(_, board)| !board.is_empty());
            shards.extend(filled.map(|(shard, _)| shard).filter(|shard| shard.index != Index::Whole));
        }
        seen.held_mean = held as f64 / servers.max(1) as f64;
        seen.shards = shards.len();
        seen.deepest = shards.iter().map(|shard| shard.depth).max().unwrap_or(0);
    }

    fn routing(&mut self, seen: &mut Minute) {
        let mut rounds = self.model.rounds[self.seen.rounds..].to_vec();
        seen.lookups = rounds.len();
        seen.lookups_failed = self.model.failed_lookups - self.seen.failed_lookups;
        seen.rounds_p50 = percentile(&mut rounds, 50);
        seen.rounds_p99 = percentile(&mut rounds, 99);
        (self.seen.rounds, self.seen.failed_lookups) = (self.model.rounds.len(), self.model.failed_lookups);
    }

    fn users(&mut self, seen: &mut Minute) {
        let creates = &self.model.creates;
        let since = self.model.now - MINUTE;
        seen.asked = creates.len() - self.seen.creates;
        self.seen.creates = creates.len();
        seen.done = creates.iter().filter(|create| create.running.is_some_and(|at| at > since)).count();
        let lately = creates.iter().filter(|create| create.asked > since);
        let mut discovered: Vec<u64> = lately.clone().filter_map(|create| create.discovered).collect();
        let accepts: Vec<bool> = lately.clone().filter_map(|create| create.first_accept).collect();
        seen.failed = creates.iter().filter(|create| create.failed_at.is_some_and(|at| at > since)).count();
        seen.discover_p50_ms = percentile(&mut discovered, 50);
        seen.discover_p99_ms = percentile(&mut discovered, 99);
        seen.first_accept = share(accepts.iter().filter(|granted| **granted).count(), accepts.len());
    }

    /// Two minutes: a provider refreshes once in them, and no more.
    fn cost(&self, seen: &mut Minute) {
        use super::scenario::Attack;
        let Some(Attack::SybilAdverts { from_minute, .. }) = self.scenario.attack else { return };
        let whole = |minute: &Minute| minute.mean[0] + minute.mean[1];
        let at = |minute: u64| self.minutes.get((minute as usize).checked_sub(1)?).map(whole);
        let before = at(from_minute).zip(at(from_minute.saturating_sub(1)));
        let Some((one, two)) = before.filter(|_| seen.minute > from_minute + 1) else { return };
        let last = self.minutes.last().map_or(0.0, whole);
        seen.cost_ratio = Some((whole(seen) + last) / (one + two));
    }

    pub(super) fn summary(&self) -> Summary {
        let (scenario, model) = (&self.scenario, &self.model);
        let from = scenario.expect.from_minute;
        let counted: Vec<&Minute> = self.minutes.iter().filter(|minute| minute.minute > from).collect();
        let most = |of: fn(&Minute) -> f64| counted.iter().map(|minute| of(minute)).fold(0.0, f64::max);
        let least = |of: fn(&Minute) -> Option<f64>| {
            counted
                .iter()
                .filter_map(|minute| of(minute))
                .fold(None, |least: Option<f64>, value| Some(least.map_or(value, |least| least.min(value))))
        };
        let mut rounds = model.rounds[self.seen.from.0.min(model.rounds.len())..].to_vec();
        let failed_lookups = (model.failed_lookups - self.seen.from.1) as usize;
        let creates: Vec<_> = model.creates.iter().filter(|create| create.asked >= from * MINUTE).collect();
        let done = creates.iter().filter(|create| create.running.is_some()).count();
        let mut failures = BTreeMap::new();
        for fault in creates.iter().filter_map(|create| create.failed.as_ref()) {
            *failures.entry(fault.code.to_string()).or_default() += 1;
        }
        let failed = failures.values().sum::<usize>();
        let accepts: Vec<bool> = creates.iter().filter_map(|create| create.first_accept).collect();
        let mut discovered: Vec<u64> = creates.iter().filter_map(|create| create.discovered).collect();
        let mut ready: Vec<u64> =
            creates.iter().filter_map(|create| create.running.map(|at| at - create.asked)).collect();
        Summary {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            nodes: scenario.size(),
            minutes: self.minutes.len(),
            leaf: scenario.leaf,
            trace: format!("{:016x}", model.digest()),
            events: model.events,
            node_seconds: self.seen.node_seconds,
            recall: least(|minute| Some(minute.recall)).unwrap_or(1.0),
            recall_mean: counted.iter().map(|minute| minute.recall).sum::<f64>() / counted.len().max(1) as f64,
            target_recall: least(|minute| minute.target_recall),
            dead_share: most(|minute| minute.dead_share),
            mean: most(|minute| minute.mean[0].max(minute.mean[1])),
            p99: most(|minute| minute.p99[0].max(minute.p99[1])),
            busiest: most(|minute| minute.busiest[0].max(minute.busiest[1])),
            cost_ratio: counted.iter().filter_map(|minute| minute.cost_ratio).reduce(f64::max),
            shards: self.minutes.last().map_or(0, |minute| minute.shards),
            deepest: self.minutes.last().map_or(0, |minute| minute.deepest),
            lookups: share(rounds.len().saturating_sub(failed_lookups), rounds.len()),
            rounds_p50: percentile(&mut rounds, 50),
            rounds_p99: percentile(&mut rounds, 99),
            asked: creates.len(),
            done,
            failed,
            failures,
            created: share(done, done + failed),
            first_accept: share(accepts.iter().filter(|granted| **granted).count(), accepts.len()),
            discover_p50_ms: percentile(&mut discovered, 50),
            discover_p99_ms: percentile(&mut discovered, 99),
            ready_p50_ms: percentile(&mut ready, 50),
            ready_p99_ms: percentile(&mut ready, 99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!((percentile(&mut values, 50), percentile(&mut values, 99)), (100, 198));
        assert_eq!((percentile(&mut [7u64], 99), percentile::<u64>(&mut [], 50)), (7, 0));
    }
}
