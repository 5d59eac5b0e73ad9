//! The real node over the memory transport, and what it is measured against: small fleets, fast links. What came is
//! looked at, not how fast.
use simulations::live::{Figures, Kind, LookupPlan, Setup, run, run_lookups};
use simulations::model::links::Delays;

const NODES: usize = 8;

/// Each message by another provider, and near enough that nothing waits for the next refresh.
fn small(kind: Kind) -> Setup {
    Setup {
        providers: 4,
        messages: 4,
        spacing_ms: 100,
        delays: Delays::Uniform { least: 2, most: 5 },
        quiet_ms: 1_000,
        settle_within_s: 60,
        ..Setup::new(kind, NODES)
    }
}

fn everybody_hears(kind: Kind) -> Figures {
    let figures = run(&small(kind)).unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(figures.reached, 1.0, "{figures:?}");
    let times = [figures.t50_ms, figures.t99_ms, figures.t100_ms].map(|time| time.expect("everybody was reached"));
    assert!(times.is_sorted() && times[0] >= 2.0, "no faster than the links: {times:?}");
    assert!(figures.copies >= 1.0 && figures.join_kib > 0.0 && figures.bytes_per_s > 0.0, "{figures:?}");
    assert!((1..NODES).contains(&figures.connections_max), "{figures:?}");
    figures
}

#[test]
fn every_advert_of_our_nodes_reaches_everybody() {
    everybody_hears(Kind::Ours);
}

#[test]
fn so_does_every_message_of_the_bare_library_where_everybody_meets_everybody() {
    let figures = everybody_hears(Kind::Bare);
    assert_eq!(figures.connections_max, NODES - 1);
}

#[test]
fn so_does_every_message_of_gossip_alone() {
    everybody_hears(Kind::GossipOnly);
}

/// In a mesh so young gossip brings it too; whichever way, nobody may miss it. The tree is measured by `make sim-live`.
#[test]
fn what_two_holders_have_acknowledged_is_found_by_everybody() {
    let plan = LookupPlan { setup: small(Kind::Ours), lookups: 3 * (NODES - 1), at_once: 4, wait_for_tree: false };
    let lookups = run_lookups(&plan).unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!((lookups.made, lookups.found, lookups.rounds), (21, 21, 3), "{lookups:?}");
}
