use protocol::core::requestor::Phase;
use simulations::Scenario;
use simulations::network::Weather;
use simulations::scenario::explore;

/// Two ask at once for the one place that there is. Messages overtake each other and come twice, none is lost.
fn race(seed: u64) {
    let weather = Weather { delay: 1..200, loss: 0, duplicates: 20, stragglers: 0..2_000 };
    let mut scenario = Scenario::new(seed, weather);
    let provider = scenario.provider(1, "0.01");
    let racers = [scenario.requestor(), scenario.requestor()];
    scenario.run_until("both see the offer", 20_000, |scenario| {
        let sees = |node: usize| scenario.world.nodes[node].core.as_ref().is_some_and(|core| core.board().len() == 1);
        sees(racers[0]) && sees(racers[1])
    });
    let first = scenario.create(racers[0], "one");
    let pause = scenario.world.dice.within(0..100);
    scenario.run_for(pause);
    let second = scenario.create(racers[1], "two");
    let creates = [(racers[0], first), (racers[1], second)];
    scenario.run_until("each has its answer", 60_000, |scenario| {
        creates
            .iter()
            .all(|(node, id)| scenario.is_running(*node, *id) || scenario.phase(*node, *id) == Some(Phase::Failed))
    });
    let winners = creates.iter().filter(|(node, id)| scenario.is_running(*node, *id)).count();
    assert_eq!(winners, 1, "one of them has it");
    let active = scenario.world.nodes[provider].host.vms.len();
    assert_eq!(active, 1, "and there is one VM");
}

#[test]
fn the_last_place_is_let_once() {
    explore("the_last_place_is_let_once", 1000, race);
}
