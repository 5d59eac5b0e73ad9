//! Of an advert that two holders have acknowledged: does everybody who looks for it find it, and how long does that
//! take? Each round one provider lets more memory than anybody before it, and as soon as two holders have taken the
//! advert everybody else asks for that much. Nobody else's advert answers, and no earlier one of the same provider, so
//! nothing that a node remembers is of use; in a mesh that gossips no more, what is found was found by asking holders.
use super::arrivals::Arrivals;
use super::figures::{Kind, Setup};
use super::ours::{LiveNode, Ours, Stands};
use super::{Fleet, settle};
use futures::StreamExt;
use node::api::types::ProviderQuery;
use protocol::names::{Arch, IsolationWanted};
use protocol::units::MemoryMib;
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, timeout};

/// Acknowledgements after which an advert is to be found by everybody.
const ENOUGH: usize = 2;
/// A put ends within this or not at all: holders are looked up, some do not answer, another is tried after 30 s.
const PUT_WITHIN: Duration = Duration::from_secs(60);
/// Counts go up by one level in 30 s, and come back with the next put.
const TREE_WITHIN: Duration = Duration::from_secs(600);
/// So that providers hear of the mesh's size, each puts something new this often while the tree grows.
const STIR_EVERY: Duration = Duration::from_secs(20);
/// Of what was missed, so many are named: enough to find out why.
const NAMED: usize = 8;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupPlan {
    /// Of our nodes; its leaf should be small enough that the tree splits.
    pub setup: Setup,
    pub lookups: usize,
    /// So many nodes ask at the same time.
    pub at_once: usize,
    /// Begin when nobody gossips any more. Without it, gossip finds it too.
    pub wait_for_tree: bool,
}

impl LookupPlan {
    pub fn new(nodes: usize, lookups: usize) -> Self {
        let setup = Setup { providers: nodes * 4 / 5, leaf: Some(8), ..Setup::new(Kind::Ours, nodes) };
        LookupPlan { setup, lookups, at_once: 8, wait_for_tree: true }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lookups {
    pub made: usize,
    pub found: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// From a provider's change to its second acknowledgement.
    pub put_p50_ms: f64,
    pub put_p99_ms: f64,
    /// Adverts that were put and looked for.
    pub rounds: usize,
    /// Where the deepest of them stood.
    pub depth: u8,
    /// What everybody sent meanwhile, for each lookup.
    pub requests: f64,
    pub kib: f64,
    /// Gossip messages that came to anybody meanwhile.
    pub gossiped: u64,
    /// The first few that found nothing: the round, and the node.
    pub missed: Vec<(usize, usize)>,
}

/// Runs a plan in this process, on a runtime of its own.
pub fn run_lookups(plan: &LookupPlan) -> Result<Lookups, Fault> {
    super::runtime()?.block_on(async {
        let fleet = Ours::start(&plan.setup, &Arrivals::new(plan.setup.nodes, 0)).await?;
        settle(&plan.setup, &fleet).await?;
        let mut changes = 0;
        if plan.wait_for_tree {
            grow(&fleet, &mut changes).await?;
        }
        let found = all_rounds(plan, &fleet, changes).await?;
        fleet.stop().await?;
        Ok(found)
    })
}

/// Until no provider gossips any more.
async fn grow(fleet: &Ours, changes: &mut usize) -> Result<(), Fault> {
    let grown = async {
        let mut stir = tokio::time::interval(STIR_EVERY);
        stir.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while fleet.providers().any(|live| live.stands().borrow().gossips) {
            stir.tick().await;
            *changes += 1;
            for live in fleet.providers() {
                live.lets_something_else(*changes).await?;
            }
        }
        Ok(())
    };
    let small = |_| {
        let gossip = fleet.providers().filter(|live| live.stands().borrow().gossips).count();
        Fault::new(ErrorCode::Timeout, format!("after {TREE_WITHIN:?} {gossip} providers still gossip"))
            .hint("there is a tree only when there are more providers than a leaf holds")
    };
    timeout(TREE_WITHIN, grown).await.map_err(small)?
}

async fn all_rounds(plan: &LookupPlan, fleet: &Ours, mut changes: usize) -> Result<Lookups, Fault> {
    let before = fleet.counted();
    let providers: Vec<&LiveNode> = fleet.providers().collect();
    let (mut lookups, mut puts, mut times) = (Lookups::default(), Vec::new(), Vec::new());
    while lookups.made < plan.lookups {
        let nobody = || Fault::invalid("nobody offers anything, so there is nothing to look for");
        let provider = *providers.get(lookups.rounds % providers.len().max(1)).ok_or_else(nobody)?;
        changes += 1;
        let began = Instant::now();
        let lets = provider.lets_something_else(changes).await?;
        let stands = acknowledged(provider, lets).await?;
        puts.push(began.elapsed());
        lookups.depth = lookups.depth.max(stands.depth);
        let others = fleet.nodes().iter().enumerate().filter(|(_, live)| live.peer != provider.peer);
        let asked = others.take(plan.lookups - lookups.made).map(|(at, live)| look_up(at, live, lets, provider.peer));
        let mut answers = futures::stream::iter(asked).buffer_unordered(plan.at_once.max(1));
        while let Some(answer) = answers.next().await {
            let (at, found, took) = answer?;
            lookups.made += 1;
            lookups.found += usize::from(found);
            times.push(took);
            if !found && lookups.missed.len() < NAMED {
                lookups.missed.push((lookups.rounds, at));
            }
        }
        lookups.rounds += 1;
    }
    (lookups.p50_ms, lookups.p99_ms) = percentiles(times);
    (lookups.put_p50_ms, lookups.put_p99_ms) = percentiles(puts);
    let meanwhile = fleet.counted().since(&before);
    lookups.gossiped = meanwhile.firsts;
    lookups.requests = meanwhile.requests as f64 / lookups.made.max(1) as f64;
    lookups.kib = meanwhile.bytes_out as f64 / lookups.made.max(1) as f64 / 1024.0;
    Ok(lookups)
}

async fn acknowledged(provider: &LiveNode, lets: MemoryMib) -> Result<Stands, Fault> {
    let mut stands = provider.stands();
    let late = |_| {
        let peer = provider.peer;
        let message = format!("the advert of {peer} was not acknowledged by {ENOUGH} holders within {PUT_WITHIN:?}");
        Fault::new(ErrorCode::Timeout, message).hint(format!("{lets} were to be let; {:?}", provider.stands().borrow()))
    };
    let taken = stands.wait_for(|stands| stands.lets == lets && stands.acknowledged >= ENOUGH);
    let ended = |_| Fault::internal(format!("{} has ended", provider.peer));
    timeout(PUT_WITHIN, taken).await.map_err(late)?.map(|stands| *stands).map_err(ended)
}

async fn look_up(
    at: usize,
    live: &LiveNode,
    memory: MemoryMib,
    wanted: PeerId,
) -> Result<(usize, bool, Duration), Fault> {
    let query = ProviderQuery {
        memory_mib: Some(memory),
        arch: Arch::of_this_build(),
        // The hosts are simulated, and say so.
        isolation: Some(IsolationWanted::Any),
        limit: Some(1),
        ..ProviderQuery::default()
    };
    let began = Instant::now();
    let answer = live.node.handle.providers(query).await?;
    Ok((at, answer.iter().any(|view| view.peer_id == wanted), began.elapsed()))
}

/// The 50th and the 99th, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
    let ms = |percent: usize| at(percent).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    (ms(50), ms(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentiles(times), (100.0, 198.0));
        assert_eq!(percentiles(vec![Duration::from_millis(7)]), (7.0, 7.0));
        assert_eq!(percentiles(Vec::new()), (0.0, 0.0));
    }
}
