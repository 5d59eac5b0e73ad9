//! The sharded board, over the model: small leaves, so that a small mesh has a tree.
use protocol::core::Input;
use protocol::core::shards::ShardStats;
use protocol::names::{Arch, Isolation};
use protocol::shard::{Class, Index, Position, Shard, Tier};
use protocol::spec::Query;
use protocol::units::Resources;
use protocol::{Keypair, PeerId};
use simulations::Scenario;
use simulations::model::links::{Delays, Links};
use simulations::model::member::Nature;
use simulations::model::{Birth, Id, Model};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const MINUTE: u64 = 60_000;
/// Once a provider has been up for so long, it has refreshed once.
const SETTLED: u64 = 130_000;

fn anywhere(model: &mut Model) -> IpAddr {
    Ipv4Addr::from(0x1000_0000 + model.dice.within(0..0xb000_0000) as u32).into()
}

fn birth(model: &mut Model, public: bool, provides: bool) -> Birth {
    let offer = || Arc::new(Scenario::offer(Resources::MEDIUM, 4, "0.01"));
    Birth {
        public,
        nature: Nature::Honest,
        city: model.dice.index(Links::cities()) as u16,
        ip: Some(anywhere(model)),
        offer: provides.then(offer),
        clock: 0,
    }
}

/// So many providers, a third of them public, that start within two minutes.
fn mesh(seed: u64, leaf: usize, providers: u32) -> Model {
    let mut model = Model::new(seed, Links::new(Delays::Cities, 10, 0), leaf);
    for n in 0..providers {
        let birth = birth(&mut model, n % 3 == 0, true);
        let at = model.dice.within(0..2 * MINUTE);
        model.add(birth, at);
    }
    model
}

fn sum(model: &Model, of: fn(&ShardStats) -> u64) -> u64 {
    let cores = model.nodes.iter().filter_map(|node| node.core.as_ref());
    cores.map(|core| of(&core.shards().stats)).sum()
}

fn deepest(model: &Model) -> u8 {
    let cores = model.nodes.iter().filter_map(|node| node.core.as_ref());
    cores.flat_map(|core| core.shards().depths().map(|(_, depth)| depth)).max().unwrap_or(0)
}

#[test]
fn a_tree_grows_everybody_is_found_and_nobody_gossips() {
    let mut model = mesh(1, 8, 120);
    for minute in 1..=8 {
        model.run_until(minute * MINUTE);
        let (recall, providers) = model.recall(SETTLED);
        assert!(recall > 0.99, "after {minute} minutes {recall} of {providers}");
    }
    let (recall, providers) = model.recall(SETTLED);
    assert_eq!(providers, 120);
    assert!(recall > 0.9999, "{recall}");
    assert!(deepest(&model) >= 3, "120 adverts are 15 leaves at least");
    let refused: Vec<_> =
        model.nodes.iter().filter_map(|node| node.core.as_ref()).map(|core| &core.shards().stats.refused).collect();
    assert!(refused.iter().all(|refused| refused.is_empty()), "{refused:?}");
    // Nobody sends to everybody any more.
    let gossiped = |model: &Model| {
        model.nodes.iter().map(|node| node.meter.of(simulations::model::meter::Kind::Gossip).0).sum::<u64>()
    };
    let before = gossiped(&model);
    model.run_until(11 * MINUTE);
    assert_eq!(gossiped(&model), before);
}

#[test]
fn the_mesh_shrinks_and_leaves_become_one() {
    let mut model = mesh(2, 8, 90);
    model.run_until(6 * MINUTE);
    assert!(deepest(&model) >= 2);
    // Private ones leave with a word; a handful stays.
    for id in 0..model.nodes.len() as Id {
        if id % 3 != 0 || id > 45 {
            model.stop(id, id % 2 == 0);
        }
    }
    model.run_until(40 * MINUTE);
    let (recall, providers) = model.recall(SETTLED);
    assert_eq!(providers, 16);
    assert!(recall > 0.99, "{recall}");
    assert!(sum(&model, |stats| stats.merges) > 0);
}

/// Whoever looks finds as many as it wants, all of them alive, without reading the whole board.
#[test]
fn a_search_finds_enough_and_says_how_much_it_has_seen() {
    let mut model = mesh(3, 8, 120);
    let asker = birth(&mut model, false, false);
    let asker = model.add(asker, 5 * MINUTE);
    model.run_until(7 * MINUTE);
    let query = Query { want: Resources::SMALL, ..Query::default() };
    // A list ends with what it has when its time is over; who only wants to choose one, with two a little sooner.
    for (n, (wanted, least)) in [(8, 8), (40, 25)].into_iter().enumerate() {
        let sent = model.node(asker).meter.messages;
        model.input(asker, Input::Search { query: query.clone(), wanted });
        let began = model.now;
        while model.node(asker).core.as_ref().is_some_and(|core| core.is_searching()) {
            assert!(model.step(began + 11_000), "a search ends");
        }
        let core = model.node(asker).core.as_ref().expect("it runs");
        let report = core.shards().searched(model.clock(asker), &query, wanted).expect("a report");
        // Who knows nothing yet has looked up the holders of some trees after 4 s, and takes what was found by then.
        let least = if n == 0 && report.took.0 >= 4000 { 2 } else { least };
        assert!(report.found as usize >= least, "{report:?}");
        assert!(!report.whole && report.seen < 120, "{report:?}");
        assert!(core.board().query(model.clock(asker), &query).count() >= least);
        assert!(report.took.0 <= 10_000, "{report:?}");
        assert!(n == 0 || model.node(asker).meter.messages > sent);
    }
}

/// Half of all nodes are replaced each minute, half of them without a word.
#[test]
fn half_a_mesh_is_replaced_each_minute() {
    let mut model = mesh(4, 8, 90);
    model.run_until(5 * MINUTE);
    let mut worst: f64 = 1.0;
    for _ in 0..4 {
        let up: Vec<Id> = (0..model.nodes.len() as Id).filter(|id| model.node(*id).core.is_some()).collect();
        for id in up {
            if model.dice.percent(50) {
                let goodbye = model.dice.percent(50);
                let (public, pause) = (model.node(id).public, model.dice.within(0..MINUTE));
                model.stop(id, goodbye);
                let successor = birth(&mut model, public, true);
                let at = model.now + pause;
                model.add(successor, at);
            }
        }
        let until = model.now + MINUTE;
        model.run_until(until);
        let (recall, providers) = model.recall(20_000);
        assert!(providers > 30);
        worst = worst.min(recall);
    }
    assert!(worst > 0.9, "{worst}");
}

#[test]
fn two_halves_of_a_mesh_see_each_other_again() {
    let mut model = mesh(5, 8, 90);
    model.run_until(6 * MINUTE);
    model.partition(|id| (id % 2) as u8);
    model.run_until(16 * MINUTE);
    model.heal();
    let healed = model.now;
    model.run_until(healed + 240_000);
    let (recall, providers) = model.recall(SETTLED);
    assert_eq!(providers, 90);
    assert!(recall >= 0.999, "{recall} after 240 s");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut model = mesh(seed, 8, 40);
        model.run_until(4 * MINUTE);
        (model.digest(), model.events)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

/// Twenty ids in four networks, ground until they lie closer to a leaf than anybody else, take what is put there and
/// show nothing.
#[test]
fn ids_ground_to_a_leaf_do_not_hide_it() {
    let mut model = mesh(6, 8, 150);
    model.run_until(6 * MINUTE);
    let provider = model.node(0).peer;
    let class = Class { arch: Arch::X86_64, isolation: Isolation::Emulated, tier: Tier::of(Resources::MEDIUM) };
    let depth = model.node(0).core.as_ref().and_then(|core| core.shards().depths().next()).map(|(_, depth)| depth);
    let leaf = Shard::of(Index::All(class), depth.expect("it is posted"), provider);
    let place = leaf.position(model.network());
    for n in 0..20u8 {
        // 50 servers: an id that agrees in 12 bits lies closer than any of them.
        let key = loop {
            let key = Keypair::from_secret(&model.dice.bytes());
            if Position::of_peer(key.peer_id()).distance(place).leading_zeros() >= 12 {
                break key;
            }
        };
        let ip = Some(Ipv4Addr::new(45, 60 + n % 4, n, 1).into());
        let birth = Birth { nature: Nature::Silent, ip, ..birth(&mut model, true, false) };
        let at = model.now + u64::from(n) * 500;
        model.add_with(key, birth, at);
    }
    let there = |model: &Model| -> Vec<PeerId> {
        let up = model.nodes.iter().filter(|node| node.offer.is_some() && node.core.is_some());
        up.map(|node| node.peer).filter(|peer| leaf.takes_peer(*peer)).collect()
    };
    let found = |model: &Model| {
        let there = there(model);
        there.iter().map(|peer| model.findable(&leaf.index, *peer)).sum::<f64>() / there.len() as f64
    };
    assert!(there(&model).len() >= 4);
    // By then what stood there before has expired, and everybody's list of holders has been made anew.
    model.run_until(model.now + 70 * MINUTE);
    assert!(found(&model) >= 0.9, "{}", found(&model));
}
