//! A VM that its tenant never uses.
use super::metering::renew;
use super::*;

const TEN_MINUTES: Millis = Millis::secs(600);

fn node() -> Node {
    let mut node = Node::new(1);
    offers(&mut node);
    node
}
fn offers(node: &mut Node) {
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { unused_stop: Some(TEN_MINUTES), ..offer(1) }))));
}
/// One that has just begun to run.
fn running(node: &mut Node) -> LeaseId {
    let id = node.lease(2, 1);
    node.wait(Millis::secs(30));
    node.report(id, JobReport::Phase(VmPhase::Booting));
    node.done(id, VmPhase::Running);
    id
}
fn power(node: &mut Node, id: LeaseId, act: u8, action: PowerAction) -> Response {
    node.ask(2, Request::Power { lease_id: id, act: ActId([act; 16]), action })
}

#[test]
fn it_is_stopped_after_its_time_and_not_before() {
    let mut node = node();
    let id = running(&mut node);
    assert_eq!(node.core.next_deadline().map(|at| at <= node.now + TEN_MINUTES), Some(true), "nothing has to happen");
    assert_eq!(switches(&node.wait(Millis(TEN_MINUTES.0 - 1))), 0);
    node.ask(2, Request::Status(id));
    assert_eq!(switches(&node.wait(Millis(1))), 1, "to look at it is not to use it");
    node.done(id, VmPhase::Stopped);
    let row = node.row(id);
    assert!(row.stage == LeaseStage::Active && !row.wants_power);
    assert_eq!(row.fault.as_ref().map(|fault| fault.code), Some(ErrorCode::Denied));
    assert!(matches!(power(&mut node, id, 1, PowerAction::Start), Response::Status(_)));
    node.done(id, VmPhase::Running);
    assert_eq!(switches(&node.wait(Millis(3 * TEN_MINUTES.0))), 0, "whose tenant starts it, uses it");
    assert_eq!(node.row(id).fault, None);
}

#[test]
fn whoever_connects_switches_or_renews_it_uses_it() {
    let tunnel = |node: &mut Node, id| assert!(node.core.authorise_tunnel(node.now, key(2).peer_id(), id).is_ok());
    let restart = |node: &mut Node, id| {
        assert!(matches!(power(node, id, 1, PowerAction::Restart), Response::Status(_)));
        node.done(id, VmPhase::Running);
    };
    let renewal = |node: &mut Node, id| assert!(renew(node, id, 60).is_ok());
    for uses in [&tunnel as &dyn Fn(&mut Node, LeaseId), &restart, &renewal] {
        let mut node = node();
        let id = running(&mut node);
        node.wait(Millis(TEN_MINUTES.0 - 1));
        uses(&mut node, id);
        node.effects();
        node.restart();
        offers(&mut node);
        node.found(&[(id, FoundState::On)]);
        assert_eq!(switches(&node.wait(Millis(2 * TEN_MINUTES.0))), 0, "once is enough, and it is on disk");
    }
}

#[test]
fn a_strangers_tunnel_is_no_use_of_it() {
    let mut node = node();
    let id = running(&mut node);
    assert!(node.core.authorise_tunnel(node.now, key(3).peer_id(), id).is_err());
    assert_eq!(switches(&node.wait(TEN_MINUTES)), 1);
}

#[test]
fn time_that_it_was_down_for_does_not_count() {
    let mut node = node();
    let id = running(&mut node);
    node.wait(Millis(TEN_MINUTES.0 - 1));
    node.found(&[(id, FoundState::Off)]);
    node.wait(TEN_MINUTES);
    node.done(id, VmPhase::Running);
    assert_eq!(switches(&node.wait(Millis(TEN_MINUTES.0 - 1))), 0);
    assert_eq!(switches(&node.wait(Millis(1))), 1);
}

#[test]
fn a_clock_that_is_set_stops_nothing_early() {
    let mut node = node();
    let id = running(&mut node);
    for by in [86_400_000, -2 * 86_400_000] {
        node.now = Timestamp(node.now.0.saturating_add_signed(by));
        assert_eq!(switches(&node.input(Input::ClockSet { by })), 0);
        assert_eq!(switches(&node.wait(Millis(TEN_MINUTES.0 / 4))), 0);
    }
    assert_eq!(switches(&node.wait(Millis(TEN_MINUTES.0 / 2))), 1, "{:?}", node.row(id));
}
