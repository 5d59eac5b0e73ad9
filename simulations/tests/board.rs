use protocol::advert::{Advert, Terms};
use protocol::board::{PAGE, Posting};
use protocol::codec;
use protocol::core::Input;
use protocol::envelope::Sealed;
use protocol::names::{Arch, Egress, Isolation};
use protocol::units::Resources;
use simulations::invariants::strangers_key;
use simulations::network::Weather;
use simulations::scenario::explore;
use simulations::{NodeId, Scenario};

fn shows(scenario: &Scenario, node: NodeId, provider: NodeId) -> bool {
    let peer = scenario.world.nodes[provider].peer;
    let core = scenario.world.nodes[node].core.as_ref();
    core.is_some_and(|core| core.board().get(scenario.world.clock(node), peer).is_some())
}

/// Whatever the clocks say (within the skew that is allowed), 300 s after its last word nobody shows it.
#[test]
fn a_provider_killed_without_goodbye_is_gone_within_300_s() {
    explore("a_provider_killed_without_goodbye_is_gone_within_300_s", 20, |seed| {
        let mut scenario = Scenario::new(seed, Weather { loss: 5, ..Weather::fair() });
        let provider = scenario.provider(1, "0.01");
        let others: Vec<NodeId> = (0..5).map(|_| scenario.requestor()).collect();
        for node in 0..6 {
            let off = scenario.world.dice.within(0..58_000) as i64 - 29_000;
            scenario.world.set_clock(node, off);
        }
        let life = scenario.world.dice.within(130_000..500_000);
        scenario.run_for(life);
        assert!(others.iter().all(|node| shows(&scenario, *node, provider)), "all have seen it");
        scenario.world.crash(provider);
        // One joins later, and learns of it from the others' boards.
        scenario.run_for(100_000);
        let late = scenario.requestor();
        scenario.run_for(200_001);
        for node in others.into_iter().chain([late]) {
            assert!(!shows(&scenario, node, provider), "node {node} still shows it");
        }
    });
}

#[test]
fn a_withdrawn_offer_is_gone_at_once() {
    let mut scenario = Scenario::new(1, Weather::fair());
    let provider = scenario.provider(1, "0.01");
    let other = scenario.requestor();
    scenario.run_until("it is seen", 20_000, |scenario| shows(scenario, other, provider));
    scenario.world.input(provider, Input::Drain);
    scenario.run_until("it is gone", 1_000, |scenario| !shows(scenario, other, provider));
    scenario.run_for(400_000);
    assert!(!shows(&scenario, other, provider), "and does not come back");
}

#[test]
fn two_halves_of_a_mesh_find_each_other_again() {
    let mut scenario = Scenario::new(2, Weather::fair());
    let far = scenario.provider(1, "0.01");
    let near = scenario.provider(1, "0.02");
    let reader = scenario.requestor();
    scenario
        .run_until("both are seen", 20_000, |scenario| shows(scenario, reader, far) && shows(scenario, reader, near));
    scenario.world.cut(far);
    scenario.run_for(400_000);
    assert!(!shows(&scenario, reader, far) && shows(&scenario, reader, near) && !shows(&scenario, far, near));
    scenario.world.heal(far);
    scenario
        .run_until("all is seen again", 10_000, |scenario| shows(scenario, reader, far) && shows(scenario, far, near));
}

/// A node that is restarted while its earlier advert, of a clock that was ahead, is still about: its new one must win.
#[test]
fn a_restart_with_a_clock_set_back_is_seen_with_its_new_offer() {
    let mut scenario = Scenario::new(3, Weather::fair());
    let provider = scenario.provider(1, "0.01");
    scenario.world.set_clock(provider, 50_000);
    let reader = scenario.requestor();
    scenario.run_until("it is seen", 150_000, |scenario| shows(scenario, reader, provider));
    scenario.run_for(130_000);
    scenario.world.crash(provider);
    scenario.world.nodes[provider].clock = -5_000;
    if let Some(offer) = scenario.world.nodes[provider].offer.as_mut() {
        offer.price.per_hour = "0.09".parse().expect("an amount");
    }
    scenario.world.restart_after(provider, 500);
    scenario.run_until("the new price is seen", 30_000, |scenario| {
        let core = scenario.world.nodes[reader].core.as_ref().expect("it runs");
        let entry = core.board().get(scenario.world.clock(reader), scenario.world.nodes[provider].peer);
        entry.is_some_and(|entry| entry.advert.terms.price.per_hour.to_string() == "0.09")
    });
}

/// A board of 500 is read by a joining node in pages, within a second.
#[test]
fn a_large_board_is_read_in_pages() {
    const PROVIDERS: u64 = 500;
    let mut scenario = Scenario::new(1, Weather::fair());
    let keeper = scenario.requestor();
    let offer = Scenario::offer(Resources::LARGE, 4, "0.01");
    for number in 0..PROVIDERS {
        let key = strangers_key(number);
        let now = scenario.world.clock(keeper);
        let terms = Terms {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: offer.backend.clone(),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            free: Resources::LARGE,
            largest: Resources::LARGE,
            overcommit_cpu: Default::default(),
            price: offer.price.clone(),
            images: offer.images.keys().cloned().collect(),
        };
        let network = scenario.world.network_name.clone();
        let advert = Advert { network, provider: key.peer_id(), seq: now.0, issued: now, addrs: Vec::new(), terms };
        let body = codec::encode(&Posting::Advert(Sealed::seal(advert, &key).signed().clone()));
        scenario.world.input(keeper, Input::Gossip { id: number, from: key.peer_id(), body });
    }
    let joining = scenario.requestor();
    scenario.run_until("it has read all", 1_000, |scenario| {
        scenario.world.nodes[joining].core.as_ref().is_some_and(|core| core.is_synced())
    });
    let core = scenario.world.nodes[joining].core.as_ref().expect("it runs");
    assert_eq!(core.board().len() as u64, PROVIDERS);
    let pages = scenario.world.nodes[keeper].next_token;
    assert!(pages >= PROVIDERS / PAGE as u64 && pages <= PROVIDERS / PAGE as u64 + 3, "{pages} pages");
}
