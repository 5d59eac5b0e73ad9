//! What is done to VMs: in which order, how many at once, how often; and what is mended.
use super::*;
use crate::core::provider::jobs::{JOBS_PER_VM, MAX_JOBS_KEPT};
use crate::job::{JobId, JobKind, JobState};

const FORCED: PowerAction = PowerAction::Stop { force: true };
const POLITE: PowerAction = PowerAction::Stop { force: false };

fn power(node: &mut Node, id: LeaseId, act: u8, action: PowerAction) -> Vec<Effect> {
    node.ask_all(2, Request::Power { lease_id: id, act: ActId([act; 16]), action })
}
fn running(vms: u32) -> (Node, Vec<LeaseId>) {
    let mut node = Node::provider(vms);
    let ids: Vec<LeaseId> = (0..vms as u8).map(|n| node.lease(2, n + 1)).collect();
    for id in &ids {
        node.done(*id, VmPhase::Running);
    }
    (node, ids)
}
fn aborted(effects: &[Effect]) -> Vec<JobId> {
    effects.iter().filter_map(|effect| if let Effect::AbortJob(id) = effect { Some(*id) } else { None }).collect()
}
fn said(effects: &[Effect], what: &str) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Event(event) if event.message.contains(what)))
}
fn states(node: &Node, id: LeaseId) -> Vec<(JobKind, JobState)> {
    node.core.provider().jobs().rows().filter(|row| row.lease_id == id).map(|row| (row.kind, row.state)).collect()
}

#[test]
fn two_are_made_at_once_and_a_guest_that_boots_leaves_its_place() {
    let mut node = Node::provider(4);
    let ids: Vec<LeaseId> = (1..=4).map(|n| node.lease(2, n)).collect();
    let runs = |node: &Node| ids.iter().filter(|id| node.core.provider().jobs().running(**id).is_some()).count();
    assert_eq!(runs(&node), 2);
    let effects = node.report(ids[0], JobReport::Phase(VmPhase::Booting));
    assert_eq!(begun(&effects).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ids[2]]);
    assert_eq!((runs(&node), node.core.provider().jobs().acting()), (3, 2));
    let effects = node.done(ids[1], VmPhase::Running);
    assert_eq!(begun(&effects).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ids[3]], "in their order");
    // On disk before it is done, and done again when the process dies on the way.
    let persisted = effects.iter().position(|effect| matches!(effect, Effect::Persist(_)));
    assert!(persisted < effects.iter().position(|effect| matches!(effect, Effect::RunJob(_))));
    let mut again: Vec<LeaseId> = begun(&node.restart()).iter().map(|(id, _)| *id).collect();
    again.sort();
    assert_eq!(again.len(), 2);
    assert_eq!(node.core.provider().jobs().active().count(), 3);
}

#[test]
fn a_fault_that_passes_is_tried_again_and_another_is_not() {
    let mut node = Node::provider(2);
    let passes = || Fault::new(ErrorCode::Unavailable, "libvirt is not up yet");
    let id = node.lease(2, 1);
    let mut pauses = vec![];
    for _ in 0..3 {
        assert_eq!(begun(&node.fails(id, VmPhase::Failed, passes())), []);
        let before = node.now;
        while provisions(&node.wait(Millis(500))) == 0 {}
        pauses.push((node.now - before).0);
    }
    assert_eq!(pauses, [1000, 2000, 4000]);
    assert_eq!(node.row(id).stage, LeaseStage::Active);
    assert!(removes(&node.fails(id, VmPhase::Failed, passes()), id), "and then no more");
    assert_eq!(states(&node, id)[0], (JobKind::Provision, JobState::Failed));
    let id = node.lease(2, 2);
    assert!(removes(&node.fails(id, VmPhase::Failed, Fault::new(ErrorCode::CreateFailed, "no")), id));
    // A removal is tried on, however often it fails.
    let mut waited = Millis(0);
    for _ in 0..20 {
        node.fails(id, VmPhase::Failed, Fault::internal("it resists"));
        let before = node.now;
        while !removes(&node.wait(Millis::secs(1)), id) {}
        waited = node.now - before;
    }
    assert_eq!(waited, Millis::secs(60));
    node.done(id, VmPhase::Gone);
    assert!(!node.row(id).counts());
}

#[test]
fn what_is_no_longer_wanted_is_overtaken() {
    let (mut node, ids) = running(1);
    let id = ids[0];
    power(&mut node, id, 1, PowerAction::Restart);
    assert_eq!(begun(&power(&mut node, id, 2, POLITE)), [], "what is half done is finished first");
    node.report(id, JobReport::Phase(VmPhase::Booting));
    assert_eq!(node.row(id).vm, VmPhase::Stopping, "its tenant waits for the stop");
    let now = states(&node, id);
    let restarted = (JobKind::Power(PowerAction::Restart), JobState::Done);
    let polite = (JobKind::Power(POLITE), JobState::Running);
    assert_eq!(now[1..], [restarted, polite], "its guest is not waited for by who wants it off");
    let effects = power(&mut node, id, 3, FORCED);
    assert_eq!((aborted(&effects).len(), switches(&effects)), (1, 1), "a guest that does not listen is cut off");
    let effects = node.ask_all(2, Request::Release(id));
    assert_eq!((aborted(&effects).len(), removes(&effects, id)), (1, true));
    node.done(id, VmPhase::Gone);
    assert_eq!(node.core.provider().jobs().active().count(), 0);
}

#[test]
fn jobs_are_bounded() {
    let (mut node, ids) = running(1);
    let id = ids[0];
    power(&mut node, id, 100, PowerAction::Restart);
    let mut refused = 0;
    for act in 0..40 {
        node.input(Input::Tick);
        let answer = node.ask(2, Request::Power { lease_id: id, act: ActId([act; 16]), action: POLITE });
        refused += u32::from(matches!(answer, Response::Refused(_)));
    }
    assert!(node.core.provider().jobs().active().count() <= JOBS_PER_VM && refused < 40);
    for act in 0..400u16 {
        let act = ActId([&act.to_be_bytes()[..], &[7; 14]].concat().try_into().unwrap());
        if let Some(job) = node.core.provider().jobs().running(id) {
            node.input(Input::Job { job, report: JobReport::Done(VmPhase::Running) });
        }
        node.ask(2, Request::Power { lease_id: id, act, action: PowerAction::Restart });
    }
    let jobs = node.disk.keys().filter(|(table, _)| *table == Table::Jobs).count();
    assert!((MAX_JOBS_KEPT..=MAX_JOBS_KEPT + JOBS_PER_VM).contains(&jobs), "{jobs}");
    let last = node.core.provider().jobs().rows().last().unwrap().id;
    node.restart();
    assert_eq!(node.core.provider().jobs().rows().last().unwrap().id, last, "numbers count on");
}

#[test]
fn tenants_that_switch_without_end_leave_a_place_for_removals() {
    let (mut node, ids) = running(6);
    for id in &ids[..5] {
        power(&mut node, *id, 1, PowerAction::Restart);
    }
    assert_eq!(node.core.provider().jobs().acting(), 4);
    assert!(removes(&node.ask_all(2, Request::Release(ids[5])), ids[5]));
}

#[test]
fn the_operator_takes_back_what_can_be_taken_back() {
    let mut node = Node::provider(2);
    let id = node.lease(2, 1);
    let job = node.core.provider().jobs().running(id).unwrap();
    let effects = node.input(Input::CancelJob(job));
    assert_eq!(aborted(&effects), [job]);
    assert!(removes(&effects, id), "it never ran: its lease is over");
    let fault = node.row(id).fault.clone().unwrap();
    assert!(fault.message.contains("operator"), "{fault}");
    let removal = node.core.provider().jobs().running(id).unwrap();
    assert_eq!(begun(&node.input(Input::CancelJob(removal))), []);
    assert_eq!(node.core.provider().jobs().running(id), Some(removal), "a removal stays");
    let id = node.lease(2, 2);
    node.done(id, VmPhase::Running);
    power(&mut node, id, 1, POLITE);
    let stop = node.core.provider().jobs().running(id).unwrap();
    node.input(Input::CancelJob(stop));
    assert_eq!((node.row(id).vm, node.row(id).wants_power), (VmPhase::Running, true), "it stands where it stood");
}

#[test]
fn every_difference_is_mended_at_the_second_look_and_said() {
    let (mut node, ids) = running(3);
    let [a, b, c] = ids[..] else { panic!("three") };
    let orphan = LeaseId([77; 16]);
    let there = [(a, FoundState::On), (b, FoundState::Off), (orphan, FoundState::Broken)];
    for _ in 0..10 {
        node.found(&ids.iter().map(|id| (*id, FoundState::On)).collect::<Vec<_>>());
    }
    let found: Vec<Found> =
        there.iter().map(|(lease_id, state)| Found { lease_id: *lease_id, state: *state }).collect();
    assert_eq!(begun(&node.input(Input::Inventory(found.clone()))), [], "one look may be stale");
    assert!(node.core.provider().is_unsure());
    assert_eq!(begun(&node.input(Input::Inventory(found.clone()))), [], "nor do two that are one");
    node.now = node.now + Millis::secs(1);
    let effects = node.input(Input::Inventory(found));
    assert!(removes(&effects, orphan) && said(&effects, "which no lease names"));
    assert!(said(&effects, "is stopped by itself") && said(&effects, "vanished"));
    assert_eq!([a, b, c].map(|id| node.row(id).vm), [VmPhase::Running, VmPhase::Stopped, VmPhase::Failed]);
    node.done(orphan, VmPhase::Gone);
    assert_eq!(begun(&node.found(&there[..2])), [], "and then it is as it should be");
    assert!(!node.core.provider().is_unsure());
}

#[test]
fn a_host_that_was_rebooted_has_its_guests_started_again() {
    let (mut node, ids) = running(2);
    power(&mut node, ids[1], 1, FORCED);
    node.done(ids[1], VmPhase::Stopped);
    assert_eq!(begun(&node.restart()), [], "what runs is let be");
    let off: Vec<_> = ids.iter().map(|id| (*id, FoundState::Off)).collect();
    let effects = node.found(&off);
    assert_eq!(begun(&effects).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ids[0]], "the other one was off before");
    assert!(said(&effects, "started"));
}

#[test]
fn a_simulated_host_that_forgot_its_guests_has_them_made_again() {
    let mut node = Node::new(1);
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { isolation: Isolation::Simulated, ..offer(1) }))));
    let any = VmSpec { isolation: IsolationWanted::Any, ..spec() };
    let question = Request::Quote(QuoteReq { create_id: CreateId([1; 16]), spec: any });
    let Response::Quote(quote) = node.ask(2, question) else { panic!("a quote") };
    let quote: Sealed<Quote> = quote.open(node.core.network()).unwrap();
    let grant = node.accept(2, 1, &quote).unwrap();
    node.confirm(2, &grant);
    node.done(grant.lease_id, VmPhase::Running);
    node.restart();
    assert_eq!(provisions(&node.found(&[])), 1);
}

#[test]
fn what_a_store_of_an_older_version_left_half_done_is_taken_up() {
    let mut node = Node::provider(2);
    let (made, ended) = (node.lease(2, 1), node.lease(2, 2));
    node.ask(2, Request::Release(ended));
    node.disk.retain(|(table, _), _| *table != Table::Jobs);
    assert!(removes(&node.restart(), ended));
    let effects = node.found(&[(made, FoundState::Broken)]);
    assert!(provisions(&effects) == 1 && said(&effects, "half done"));
}

#[test]
fn a_process_that_ends_begins_nothing_and_says_nothing_of_what_waits() {
    let (mut node, ids) = running(1);
    node.input(Input::Stop);
    assert_eq!(begun(&power(&mut node, ids[0], 1, FORCED)), []);
    assert_eq!(switches(&node.restart()), 1, "the next process does it");
}

#[test]
fn each_tenant_is_told_once_that_the_node_stops() {
    let mut node = Node::provider(4);
    for (tenant, create) in [(2, 1), (2, 2), (3, 3)] {
        let id = node.lease(tenant, create);
        node.done(id, VmPhase::Running);
    }
    let gone = node.lease(4, 4);
    node.ask(4, Request::Release(gone));
    node.done(gone, VmPhase::Gone);
    let effects = node.input(Input::Stop);
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, body, .. } => Some((*to, Frame::<Request>::decode(body).unwrap().body)),
        _ => None,
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(to, _)| *to);
    let mut wanted = [2, 3].map(|n| (key(n).peer_id(), Request::Away));
    wanted.sort_by_key(|(to, _)| *to);
    assert_eq!(told, wanted);
}
