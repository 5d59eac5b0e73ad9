use protocol::ErrorCode;
use protocol::core::requestor::Phase;
use protocol::units::Millis;
use simulations::network::Weather;
use simulations::scenario::explore;
use simulations::{NodeId, Scenario};

fn boards_show(scenario: &Scenario, node: NodeId, adverts: usize) -> bool {
    scenario.world.nodes[node].core.as_ref().is_some_and(|core| core.board().len() == adverts)
}

/// The cheapest refuses, the next one's VM fails after the lease, the third is good: the create gets there, says
/// what happened, and what the second began is gone before it is forgotten.
fn next_best(seed: u64) {
    let mut scenario = Scenario::new(seed, Weather::fair());
    let refusing = scenario.provider(1, "0.01");
    let failing = scenario.provider(1, "0.02");
    let good = scenario.provider(1, "0.03");
    if let Some(offer) = scenario.world.nodes[refusing].offer.as_mut() {
        offer.max_lease = Millis::secs(60);
    }
    scenario.world.nodes[failing].host.temper.failures = 100;
    let requestor = scenario.requestor();
    scenario.run_until("all offers are seen", 20_000, |scenario| boards_show(scenario, requestor, 3));
    let id = scenario.create(requestor, "web");
    let forgotten_early = |scenario: &Scenario| {
        let tried = scenario.rental(requestor, id).is_some_and(|rental| !rental.tried.is_empty());
        let released = scenario.world.nodes[requestor].disk.releases.is_empty();
        tried && released && scenario.is_running(requestor, id)
    };
    // A removal that fails at first: the release is not done before the VM is gone.
    scenario.run_until("it is released", 120_000, |scenario| !scenario.world.nodes[requestor].disk.releases.is_empty());
    scenario.run_for(20_000);
    scenario.world.nodes[failing].host.temper.failures = 0;
    scenario.run_until("it runs, and nothing is left to give back", 120_000, forgotten_early);
    assert!(scenario.world.nodes[failing].host.vms.is_empty(), "verified gone");
    assert_eq!(scenario.world.nodes[good].host.vms.len(), 1);
    let rental = scenario.rental(requestor, id).expect("it is there");
    assert_eq!(rental.deal.as_ref().map(|deal| deal.provider), Some(scenario.world.nodes[good].peer));
    let notices: Vec<&String> = scenario.world.nodes[requestor].notices.iter().map(|(_, text)| text).collect();
    for bad in [refusing, failing] {
        let name = scenario.world.nodes[bad].peer.short();
        assert!(notices.iter().any(|text| text.contains(&name)), "says that {name} is out: {notices:?}");
    }
    let marks = &rental.marks;
    let order = [rental.created, marks.discovered, marks.quoted, marks.leased, marks.running];
    assert!(order.is_sorted(), "{marks:?}");
    scenario.wind_up();
}

#[test]
fn the_next_best_is_taken() {
    explore("the_next_best_is_taken", 30, next_best);
}

#[test]
fn nobody_who_fits_is_said_within_a_second() {
    let mut scenario = Scenario::new(1, Weather::fair());
    scenario.provider(1, "0.01");
    let requestor = scenario.requestor();
    scenario.run_until("the offer is seen", 20_000, |scenario| boards_show(scenario, requestor, 1));
    let mut request = scenario.request("web");
    request.query.image = Some("other".parse().expect("an image name"));
    let id = scenario.create_with(requestor, request);
    scenario.run_until("it has failed", 1_100, |scenario| scenario.failure(requestor, id).is_some());
    assert_eq!(scenario.failure(requestor, id).map(|fault| fault.code), Some(ErrorCode::Unavailable));
}

#[test]
fn a_node_that_is_alone_waits_five_seconds() {
    let mut scenario = Scenario::new(1, Weather::fair());
    let requestor = scenario.requestor();
    let id = scenario.create(requestor, "web");
    scenario.run_for(4_900);
    assert_eq!(scenario.phase(requestor, id), Some(Phase::Discovering));
    scenario.run_for(200);
    assert_eq!(scenario.failure(requestor, id).map(|fault| fault.code), Some(ErrorCode::Unavailable));
}

#[test]
fn an_advert_that_comes_late_is_taken_at_once() {
    let mut scenario = Scenario::new(1, Weather::fair());
    let requestor = scenario.requestor();
    let id = scenario.create(requestor, "web");
    scenario.run_for(2_000);
    scenario.provider(1, "0.01");
    scenario.run_until("it runs", 20_000, |scenario| scenario.is_running(requestor, id));
    scenario.wind_up();
}

/// Messages are lost for a while: the only provider is asked again, not given up.
#[test]
fn a_provider_that_did_not_answer_is_asked_again() {
    let mut scenario = Scenario::new(5, Weather::fair());
    let provider = scenario.provider(1, "0.01");
    let requestor = scenario.requestor();
    scenario.run_until("the offer is seen", 20_000, |scenario| boards_show(scenario, requestor, 1));
    scenario.world.cut(provider);
    let id = scenario.create(requestor, "web");
    scenario.run_for(9_000);
    assert_eq!(scenario.phase(requestor, id).filter(|phase| *phase == Phase::Failed), None);
    scenario.world.heal(provider);
    scenario.run_until("it runs", 40_000, |scenario| scenario.is_running(requestor, id));
    scenario.wind_up();
}

/// Twelve at once at one provider with room for all.
#[test]
fn many_creates_at_once_all_succeed() {
    explore("many_creates_at_once_all_succeed", 10, |seed| {
        let mut scenario = Scenario::new(seed, Weather::fair());
        scenario.provider(12, "0.01");
        let requestor = scenario.requestor();
        scenario.run_until("the offer is seen", 20_000, |scenario| boards_show(scenario, requestor, 1));
        let ids: Vec<_> = (0..12).map(|n| scenario.create(requestor, &format!("vm-{n}"))).collect();
        scenario.run_until("all run", 60_000, |scenario| ids.iter().all(|id| scenario.is_running(requestor, *id)));
        scenario.wind_up();
    });
}
