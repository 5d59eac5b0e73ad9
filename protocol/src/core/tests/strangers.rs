//! What those are let who pay nothing and whom the operator does not know.
use super::metering::{renew, renew_quote};
use super::*;
use crate::core::provider::{Policy, Strangers};

const HOUR: Millis = Millis::secs(3600);

fn at(block: u8) -> Option<Site> {
    Some(Site::At(Block::V4([198, 51, block])))
}
fn through(block: u8) -> Option<Site> {
    Some(Site::Through(Block::V4([198, 51, block])))
}
fn lasting(duration: Millis, or_less: bool) -> VmSpec {
    VmSpec { duration, or_less, ..spec() }
}
/// Asks for nothing, and lets a site have two VMs.
fn offers(node: &mut Node, policy: Policy) {
    let price = Price { per_hour: "0".parse().unwrap(), ..offer(9).price };
    let strangers = Strangers { per_site: 2, ..Default::default() };
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { price, policy, strangers, ..offer(9) }))));
}
fn free(policy: Policy) -> Node {
    let mut node = Node::new(1);
    offers(&mut node, policy);
    node
}

#[test]
fn a_strangers_free_lease_is_for_an_hour_at_a_time() {
    let mut node = free(Policy::default());
    node.site = at(1);
    let too_long = Refusal::LeaseTooLong { longest: HOUR };
    assert_eq!(node.quote_of(2, 1, lasting(Millis(HOUR.0 + 1), false)).unwrap_err(), too_long);
    let quote = node.quote_of(2, 1, lasting(Millis::secs(86_400), true)).unwrap();
    assert_eq!(quote.spec.duration, HOUR, "who said that less will do gets less");
    let again = node.quote_of(2, 1, lasting(Millis::secs(86_400), true)).unwrap();
    assert_eq!(again.quote_id, quote.quote_id, "and the same when it is asked again");
    let grant = node.accept(2, 1, &quote).unwrap();
    assert!(matches!(node.confirm(2, &grant), Response::Active { .. }));
    let id = grant.lease_id;
    assert_eq!(node.row(id).ends_at, node.now + HOUR);
    node.done(id, VmPhase::Running);
    node.wait(Millis::secs(1800));
    assert_eq!(renew_quote(&mut node, id, 1801).unwrap_err(), too_long, "wherever it comes from then");
    assert!(renew(&mut node, id, 1800).is_ok());
}

#[test]
fn strangers_of_one_site_share_what_is_free() {
    let mut node = free(Policy::default());
    node.site = at(1);
    let third = node.quote(4, 1).unwrap();
    let first = node.lease(2, 1);
    node.lease(3, 1);
    let full = Refusal::StrangersFull { most: 2, retry_after_s: Some(5) };
    assert_eq!(node.quote(5, 1).unwrap_err(), full);
    assert_eq!(node.accept(4, 1, &third).unwrap_err(), full, "nor what was quoted before");
    node.site = through(1);
    node.lease(5, 1);
    node.lease(6, 1);
    assert_eq!(node.quote(7, 1).unwrap_err(), full, "who comes by its relays shares that share");
    for elsewhere in [at(2), None] {
        node.site = elsewhere;
        node.lease(8, if elsewhere.is_some() { 1 } else { 2 });
    }
    node.site = at(1);
    node.restart();
    assert!(matches!(node.quote(5, 2), Err(Refusal::NotProviding)));
    offers(&mut node, Policy::default());
    assert_eq!(node.quote(9, 1).unwrap_err(), full, "it is on disk");
    node.ask(2, Request::Release(first));
    node.done(first, VmPhase::Gone);
    assert!(node.quote(9, 1).is_ok());
}

#[test]
fn who_pays_or_is_known_is_no_stranger() {
    let day = lasting(Millis::secs(86_400), false);
    let mut paid = Node::provider(9);
    paid.site = at(1);
    assert!(paid.quote_of(2, 1, day.clone()).is_ok());

    let mut node = free(Policy::default());
    assert!(node.quote_of(2, 1, day.clone()).is_ok(), "one of this host's own network");
    node.site = at(1);
    assert!(node.quote_of(3, 1, day.clone()).is_err());
    node.input(Input::SetQuota { peer: key(3).peer_id(), tier: Some(Tier::Free) });
    assert!(node.quote_of(3, 1, day.clone()).is_ok());

    let mut node = free(Policy { allow: [key(4).peer_id()].into(), ..Policy::default() });
    node.site = at(1);
    assert!(node.quote_of(4, 1, day).is_ok());
}
