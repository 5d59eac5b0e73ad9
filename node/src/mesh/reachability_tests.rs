use super::*;
use std::time::Duration;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
fn at(text: &str) -> Place {
    let ip = ip(text);
    let kind = if ip.is_ipv4() { "ip4" } else { "ip6" };
    Place { ip, addr: format!("/{kind}/{ip}/tcp/4001") }
}
const FAR: [&str; 4] = ["198.51.100.1", "203.0.113.1", "192.0.2.1", "198.18.0.1"];

/// A node at home: behind a router, and somebody of the world was met.
fn at_home(now: Instant) -> Evidence<u32> {
    let mut reach = Evidence::default();
    reach.listens(vec![at("127.0.0.1"), at("192.168.1.2")]);
    reach.met(now, ip(FAR[0]));
    reach
}
fn visit(by: u32, from: &str) -> Visit<u32> {
    Visit { by, from: ip(from), sought: false, fresh: true }
}

#[test]
fn nobody_listens_nobody_was_met_nobody_has_tried() {
    let now = Instant::now();
    let mut reach: Evidence<u32> = Evidence::default();
    let report = reach.report();
    assert_eq!(
        (report.state, report.why.as_str()),
        (Reachability::Private, "it listens nowhere, so nobody can connect to it")
    );
    reach.listens(vec![at("127.0.0.1")]);
    let report = reach.report();
    assert_eq!((report.state, report.why.as_str()), (Reachability::Unknown, "it has met no other node yet"));
    reach.met(now, ip("127.0.0.1"));
    assert_eq!(reach.report().why, "no peer has tried to connect to it yet");
}

#[test]
fn the_majority_of_the_latest_verdicts_decides() {
    let now = Instant::now();
    let mut reach = at_home(now);
    let ours = at("192.0.2.77");
    reach.tested(now, ours.clone(), 1, ip(FAR[0]), false);
    let report = reach.report();
    assert_eq!(report.state, Reachability::Private);
    assert_eq!(report.why, "a peer could not connect to /ip4/192.0.2.77/tcp/4001");
    reach.tested(now, ours.clone(), 2, ip(FAR[1]), true);
    assert_eq!(reach.report().state, Reachability::Private, "a tie changes nothing");
    reach.tested(now, ours.clone(), 3, ip(FAR[2]), true);
    let report = reach.report();
    assert_eq!((report.state, report.direct.as_slice()), (Reachability::Public, &[ours.addr.clone()][..]));
    assert_eq!(report.why, "2 peers connected to /ip4/192.0.2.77/tcp/4001");
    // The router is closed again: the same peers, asked again, and a new one.
    for peer in [2, 3, 4] {
        reach.tested(now, ours.clone(), peer, ip(FAR[1]), false);
    }
    assert_eq!(reach.report().state, Reachability::Private);
    assert!(reach.report().direct.is_empty());
}

#[test]
fn an_address_counts_as_far_as_peers_are_met() {
    let now = Instant::now();
    let mut reach = Evidence::default();
    reach.listens(vec![at("127.0.0.1"), at("192.168.1.2")]);
    reach.met(now, ip("192.168.1.9"));
    reach.tested(now, at("192.168.1.2"), 1, ip("192.168.1.9"), true);
    let report = reach.report();
    assert_eq!(report.state, Reachability::Public, "everybody there is can reach it");
    assert_eq!(report.why, "a peer connected to /ip4/192.168.1.2/tcp/4001; nobody outside this site was met");
    reach.met(now, ip(FAR[0]));
    assert_eq!(reach.report().state, Reachability::Unknown, "that is of no use to the world");
    assert!(reach.report().direct.is_empty());
    let later = now + limits::HORIZON_KEPT;
    reach.met(later, ip("192.168.1.9"));
    assert_eq!(reach.report().state, Reachability::Public, "the world is gone");
}

#[test]
fn a_tester_on_our_side_of_the_router_proves_nothing() {
    let now = Instant::now();
    let mut reach = at_home(now);
    reach.tested(now, at("192.0.2.77"), 1, ip("192.168.1.9"), true);
    reach.came_in(now, at("192.0.2.77"), visit(2, "192.168.1.9"));
    assert_eq!(reach.report().state, Reachability::Unknown);
}

#[test]
fn visitors_speak_for_an_address_unless_we_opened_the_way() {
    let now = Instant::now();
    // A server with a public interface.
    let mut reach = Evidence::default();
    reach.listens(vec![at("127.0.0.1"), at("192.0.2.77")]);
    reach.met(now, ip(FAR[0]));
    reach.came_in(now, at("192.0.2.77"), Visit { sought: true, ..visit(1, FAR[0]) });
    assert_eq!(reach.report().state, Reachability::Unknown, "it may have come through the hole that our dial made");
    reach.came_in(now, at("192.0.2.77"), visit(2, FAR[1]));
    assert_eq!(reach.report().state, Reachability::Public);
    // Behind a router that forwards: two of different networks must say the same.
    let mut reach = at_home(now);
    let ours = at("192.0.2.77");
    reach.came_in(now, ours.clone(), visit(1, FAR[0]));
    reach.came_in(now, ours.clone(), visit(2, "198.51.7.7"));
    assert_eq!(reach.report().state, Reachability::Unknown, "one network is one voice");
    reach.came_in(now, ours.clone(), visit(3, FAR[1]));
    assert_eq!(reach.report().state, Reachability::Public);
    // Connections that last are no answer to one that could not be made.
    for peer in [4, 5, 6] {
        reach.tested(now, ours.clone(), peer, ip(FAR[2]), false);
    }
    for peer in [1, 2, 3] {
        reach.came_in(now, ours.clone(), Visit { fresh: false, ..visit(peer, FAR[1]) });
    }
    assert_eq!(reach.report().state, Reachability::Private);
}

#[test]
fn a_gateways_word_counts_until_somebody_has_tried() {
    let now = Instant::now();
    let mut reach = at_home(now);
    let ours = at("192.0.2.77");
    reach.mapped(ours.clone());
    let report = reach.report();
    assert_eq!(report.state, Reachability::Public);
    assert_eq!(report.why, "the router forwards /ip4/192.0.2.77/tcp/4001; no peer has tried it yet");
    reach.tested(now, ours.clone(), 1, ip(FAR[0]), false);
    assert_eq!(reach.report().state, Reachability::Private, "there is another router in front of it");
    reach.tested(now, ours.clone(), 1, ip(FAR[0]), true);
    assert_eq!(reach.report().state, Reachability::Public);
    reach.unmapped(&ours.addr);
    assert_eq!(reach.report().state, Reachability::Unknown);
    reach.gateway(Gateway::Absent);
    reach.tested(now, ours, 1, ip(FAR[0]), false);
    assert!(reach.report().why.ends_with("; no router here opens ports on request (UPnP)"));
}

#[test]
fn version_6_alone_is_announced_and_not_called_public() {
    let now = Instant::now();
    let mut reach = at_home(now);
    reach.listens(vec![at("192.168.1.2"), at("2001:db8::7")]);
    reach.tested(now, at("2001:db8::7"), 1, ip("2001:db8:1::1"), true);
    reach.tested(now, at("192.0.2.77"), 2, ip(FAR[0]), false);
    let report = reach.report();
    assert_eq!((report.state, report.direct.len()), (Reachability::Private, 1));
    assert!(report.why.contains("over IP version 6 others can"), "{}", report.why);
    reach.listens(vec![at("127.0.0.1"), at("2001:db8::7")]);
    assert_eq!(reach.report().state, Reachability::Public, "it has nothing else");
}

#[test]
fn tests_are_repeated_soon_while_verdicts_are_few_and_seldom_afterwards() {
    let start = Instant::now();
    let mut reach = at_home(start);
    reach.tested(start, at("192.0.2.77"), 1, ip(FAR[0]), true);
    let second = Duration::from_secs(1);
    let due = |reach: &mut Evidence<u32>, from: u32, to: u32| {
        (from..to).filter(|s| reach.test_due(start + second * *s, 0.5).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(due(&mut reach, 0, 600), [15, 30, 45, 60, 75, 90, 105], "one tester is all there is");
    assert_eq!(due(&mut reach, 600, 3000), [1005, 1905, 2805]);
    // Somebody contradicts.
    reach.tested(start + second * 3000, at("192.0.2.78"), 2, ip(FAR[1]), false);
    assert_eq!(due(&mut reach, 3000, 3050), [3015, 3030, 3045]);
    for place in ["192.0.2.77", "192.0.2.78"] {
        for peer in 1..=3 {
            reach.tested(start + second * 3050, at(place), peer, ip(FAR[1]), true);
        }
    }
    assert!(reach.is_settled("/ip4/192.0.2.77/tcp/4001") && !reach.is_settled("/ip4/192.0.2.79/tcp/4001"));
    let planned = (3050..3100).find_map(|s| reach.test_due(start + second * s, 0.5));
    assert_eq!(planned, Some(Due::All), "one was planned; all agree now");
    assert!(due(&mut reach, 3100, 3900).is_empty());
}

#[test]
fn old_verdicts_are_forgotten_and_liars_cannot_fill_the_memory() {
    let start = Instant::now();
    let mut reach = at_home(start);
    reach.tested(start, at("192.0.2.77"), 1, ip(FAR[0]), true);
    for n in 0..1000u32 {
        let claim = Place { ip: ip("192.0.2.99"), addr: format!("/ip4/192.0.2.99/tcp/{n}") };
        reach.came_in(start + Duration::from_millis(u64::from(n)), claim.clone(), visit(n, FAR[1]));
        reach.tested(start, claim, n, ip(FAR[1]), false);
    }
    assert_eq!(reach.candidates.len(), limits::MAX_EXTERNAL);
    assert_eq!(reach.report().direct, ["/ip4/192.0.2.77/tcp/4001"], "what is confirmed stays");
    reach.forget(start + limits::VERDICT_KEPT);
    assert!(reach.candidates.is_empty());
    assert_eq!(reach.report().state, Reachability::Unknown);
}

#[test]
fn how_far_addresses_reach() {
    for (text, scope) in [
        ("127.0.0.1", Scope::Machine),
        ("::1", Scope::Machine),
        ("::ffff:127.0.0.1", Scope::Machine),
        ("10.1.2.3", Scope::Site),
        ("169.254.1.1", Scope::Site),
        ("100.64.0.1", Scope::Site),
        ("100.128.0.1", Scope::World),
        ("fd00::1", Scope::Site),
        ("fe80::1", Scope::Site),
        ("192.0.2.1", Scope::World),
        ("2001:db8::1", Scope::World),
    ] {
        assert_eq!(Scope::of(ip(text)), scope, "{text}");
    }
    assert_eq!(subnet(ip("192.0.2.1")), subnet(ip("192.0.255.9")));
    assert_ne!(subnet(ip("2001:db8::1")), subnet(ip("2001:db9::1")));
}
