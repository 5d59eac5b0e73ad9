//! Deaths of a provider at every step, counted by where they hit.
use simulations::crashes::{Hits, POINTS, When, run};
use simulations::scenario::explore;
use std::cell::RefCell;

/// So many deaths at each point, before it and after it, when there are enough runs for it.
const FULL: u64 = 100;
/// Runs in which each point is met.
const ENOUGH: u64 = 20 * POINTS.len() as u64;

#[test]
#[allow(clippy::print_stdout, reason = "the table of where it was hit is what is looked for")]
fn a_provider_that_dies_anywhere_loses_leaks_and_doubles_nothing() {
    let hits: RefCell<Hits> = RefCell::default();
    let runs = RefCell::new(0);
    explore("a_provider_that_dies_anywhere", ENOUGH, |seed| {
        for (point, times) in run(seed) {
            *hits.borrow_mut().entry(point).or_default() += times;
        }
        *runs.borrow_mut() += 1;
    });
    let hits = hits.into_inner();
    let times = |point, when| hits.get(&(point, when)).copied().unwrap_or(0);
    for point in POINTS {
        let (before, after) = (times(point, When::Before), times(point, When::After));
        println!("{:>24} {:<14} {before:>7} before {after:>7} after", point.0, point.1);
    }
    let (total, runs) = (hits.values().sum::<u64>(), runs.into_inner());
    println!("{total} deaths in {runs} runs");
    let least = POINTS.iter().map(|point| times(*point, When::Before).min(times(*point, When::After))).min();
    let wanted = if total >= 100_000 { FULL } else { u64::from(runs >= ENOUGH) };
    assert!(least >= Some(wanted), "each point was hit, before and after: {least:?}");
}
