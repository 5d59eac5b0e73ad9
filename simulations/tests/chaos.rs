use simulations::chaos;
use simulations::scenario::explore;

#[test]
fn random_actions_leave_nothing_behind() {
    explore("random_actions_leave_nothing_behind", 100, |seed| {
        chaos::run(seed, 60);
    });
}

#[test]
fn a_run_is_replayed_bit_for_bit() {
    for seed in [1, 2, 3] {
        let (a, b) = (chaos::run(seed, 40), chaos::run(seed, 40));
        assert_eq!((a.world.digest(), a.world.steps()), (b.world.digest(), b.world.steps()));
    }
    assert_ne!(chaos::run(4, 40).world.digest(), chaos::run(5, 40).world.digest());
}
