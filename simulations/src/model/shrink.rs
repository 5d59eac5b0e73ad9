//! The smallest run that fails in the same way: with fewer nodes, and no longer than it must be.
use super::run::{Ended, MINUTE, Run};
use super::scenario::Scenario;

/// Each try has half the nodes of the one before: all of them cost less than the run that failed.
const TRIES: u32 = 6;
/// Below this a scenario shows nothing any more.
const LEAST_NODES: u32 = 12;

/// What replays a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smallest {
    /// None when the file's own size is needed.
    pub nodes: Option<u32>,
    pub until_ms: u64,
    pub tries: u32,
}

/// Where the failure of this run shows: an expectation is judged at the end.
fn until(scenario: &Scenario, ended: &Ended) -> u64 {
    ended.violation.as_ref().map_or(scenario.minutes * MINUTE, |violation| violation.at)
}

/// `scenario` is what `ended` came of.
pub fn shrink(scenario: &Scenario, ended: &Ended) -> Smallest {
    let mut smallest = Smallest { nodes: None, until_ms: until(scenario, ended), tries: 0 };
    let Some(what) = ended.first_failure() else { return smallest };
    let mut nodes = scenario.size() / 2;
    while smallest.tries < TRIES && nodes >= LEAST_NODES {
        smallest.tries += 1;
        let smaller = scenario.clone().sized(nodes);
        let ended = Run::new(smaller.clone()).run(None, |_| {});
        if ended.first_failure() != Some(what) {
            break;
        }
        (smallest.nodes, smallest.until_ms) = (Some(nodes), until(&smaller, &ended));
        nodes /= 2;
    }
    smallest
}
