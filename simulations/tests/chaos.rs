use simulations::chaos::{self, Tally};
use simulations::scenario::explore;
use std::cell::Cell;

#[test]
#[allow(clippy::print_stdout, reason = "what a run has met is worth reading")]
fn random_actions_leave_nothing_behind() {
    let tally = Cell::new(Tally::default());
    explore("random_actions_leave_nothing_behind", 300, |seed| {
        let mut sum = tally.get();
        sum.add(&chaos::run(seed, 60));
        tally.set(sum);
    });
    let tally = tally.get();
    let met = tally.leases.min(tally.expired).min(tally.failovers).min(tally.failed_vms).min(tally.kills as usize);
    assert!(met > 0, "everything was met: {tally:?}");
    println!("{tally:?}");
}

#[test]
fn a_run_is_replayed_bit_for_bit() {
    for seed in [1, 2, 3] {
        let (a, b) = (chaos::run(seed, 40), chaos::run(seed, 40));
        assert_eq!((a.world.digest(), a.world.steps()), (b.world.digest(), b.world.steps()));
    }
    assert_ne!(chaos::run(4, 40).world.digest(), chaos::run(5, 40).world.digest());
}
