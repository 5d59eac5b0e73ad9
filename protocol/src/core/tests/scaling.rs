//! Another size for a VM.
use super::*;
use crate::core::Scaling;

const TENANT: u8 = 2;
const TWICE: Resources = Resources::new(2, 2048, 20);

/// A provider of so many small VMs, with one that runs.
fn running(vms: u32) -> (Node, LeaseId) {
    let mut node = Node::provider(vms);
    let id = node.lease(TENANT, 1);
    node.done(id, VmPhase::Running);
    (node, id)
}
fn scale(node: &mut Node, lease_id: LeaseId, act: u8, to: Resources) -> (Response, Vec<Effect>) {
    let request = Request::Power { lease_id, act: ActId([act; 16]), action: PowerAction::Scale(to) };
    let effects = node.ask_all(TENANT, request);
    let token = node.token;
    let reply = effects.iter().find_map(|effect| match effect {
        Effect::Reply { token: of, body } if *of == token => Some(body),
        _ => None,
    });
    (Frame::<Response>::decode(reply.expect("an answer")).unwrap().body, effects)
}
fn taken(node: &Node) -> Resources {
    node.core.provider().ledger().taken()
}
fn scalings(effects: &[Effect]) -> Vec<Scaling> {
    let works = begun(effects);
    works
        .iter()
        .filter_map(|(_, work)| if let Work::Scale(scaling) = work { Some(scaling.clone()) } else { None })
        .collect()
}
fn no(code: ErrorCode) -> Fault {
    Fault::new(code, "the hypervisor says no")
}

#[test]
fn both_sizes_are_let_until_it_has_the_new_one_and_the_rest_is_free_again() {
    let (mut node, id) = running(3);
    let (answer, effects) = scale(&mut node, id, 7, TWICE);
    let Response::Status(status) = answer else { panic!("{answer:?}") };
    assert_eq!((status.vm, status.resources), (VmPhase::Stopping, Some(spec().resources)));
    let [scaling] = &scalings(&effects)[..] else { panic!("one job") };
    assert_eq!((scaling.from, scaling.to, scaling.on), (spec().resources, TWICE, true));
    assert_eq!(taken(&node), TWICE);
    // Said again it is the same.
    let (_, again) = scale(&mut node, id, 7, TWICE);
    assert!(scalings(&again).is_empty());
    node.report(id, JobReport::Phase(VmPhase::Booting));
    assert_eq!(node.row(id).status().resources, Some(TWICE), "it boots with it");
    node.done(id, VmPhase::Running);
    // Less memory and fewer CPUs; the disk stays.
    let less = Resources { disk_gib: TWICE.disk_gib, ..spec().resources };
    assert!(matches!(scale(&mut node, id, 8, less).0, Response::Status(_)));
    assert_eq!(taken(&node), TWICE, "it may fail");
    node.report(id, JobReport::Phase(VmPhase::Booting));
    assert_eq!(taken(&node), less);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (mut node, id) = running(2);
    let before = node.row(id).clone();
    let refusal = |node: &mut Node, act, to| match scale(node, id, act, to) {
        (Response::Refused(refusal), _) => refusal,
        (other, _) => panic!("{other:?}"),
    };
    let three = Resources::new(3, 3072, 30);
    let Refusal::Exhausted { asked, free, .. } = refusal(&mut node, 1, three) else { panic!("RES_002") };
    assert_eq!((asked, free), (three, TWICE), "what it has counts as free");
    assert_eq!(refusal(&mut node, 2, Resources::new(1, 1024, 5)).code(), ErrorCode::BackendCannot);
    assert_eq!(refusal(&mut node, 3, Resources::new(0, 1024, 10)).code(), ErrorCode::InvalidRequest);
    // The tier of its tenant.
    node.input(Input::SetQuota { peer: key(TENANT).peer_id(), tier: Some(Tier::Free) });
    node.input(Input::Offer(Offering::Vms(Box::new(offer(9)))));
    assert_eq!(refusal(&mut node, 4, three).code(), ErrorCode::Quota);
    assert_eq!(*node.row(id), before);
    assert!(matches!(scale(&mut node, id, 5, TWICE).0, Response::Status(_)), "two CPUs are in it");
    // One at a time.
    assert_eq!(refusal(&mut node, 6, spec().resources).code(), ErrorCode::WrongState);
}

#[test]
fn a_process_that_dies_on_the_way_takes_it_up_again_with_both_let() {
    let (mut node, id) = running(3);
    node.ask(TENANT, Request::Power { lease_id: id, act: ActId([1; 16]), action: PowerAction::Stop { force: true } });
    node.done(id, VmPhase::Stopped);
    scale(&mut node, id, 2, TWICE);
    let mut effects = node.restart();
    effects.extend(node.input(Input::Offer(Offering::Vms(Box::new(offer(3))))));
    let [scaling] = &scalings(&effects)[..] else { panic!("it is done again: {effects:?}") };
    assert!(!scaling.on, "it was off");
    assert_eq!(taken(&node), TWICE);
    node.done(id, VmPhase::Stopped);
    assert_eq!((node.row(id).vm, node.row(id).spec.resources), (VmPhase::Stopped, TWICE));
}

#[test]
fn where_it_fails_its_size_is_what_it_has_and_unknown_is_both() {
    let (mut node, id) = running(4);
    let grown = Resources { disk_gib: TWICE.disk_gib, ..spec().resources };
    // One that passes is tried again, with as much let as before.
    scale(&mut node, id, 1, TWICE);
    let not_scaled = |code| JobReport::NotScaled { phase: VmPhase::Running, fault: no(code), has: grown };
    node.report(id, not_scaled(ErrorCode::Unavailable));
    assert_eq!((taken(&node), node.row(id).vm), (TWICE, VmPhase::Stopping));
    assert_eq!(scalings(&node.wait(Millis::secs(1))).len(), 1);
    node.report(id, not_scaled(ErrorCode::CreateFailed));
    assert_eq!((taken(&node), node.row(id).vm), (grown, VmPhase::Running), "its disk has grown");
    assert!(node.row(id).fault.is_some(), "its tenant reads why");
    // Nobody knows what became of it.
    scale(&mut node, id, 2, Resources::new(3, 3072, 30));
    node.fails(id, VmPhase::Failed, no(ErrorCode::CreateFailed));
    assert_eq!((taken(&node), node.row(id).vm), (Resources::new(3, 3072, 30), VmPhase::Failed));
    // It is started, whatever it has, and told its size once more.
    node.ask(TENANT, Request::Power { lease_id: id, act: ActId([3; 16]), action: PowerAction::Start });
    node.done(id, VmPhase::Running);
    let (answer, _) = scale(&mut node, id, 4, TWICE);
    assert!(matches!(answer, Response::Refused(Refusal::Unsuitable(_))), "its disk may be larger: {answer:?}");
    let less = Resources { disk_gib: DiskGib(30), ..TWICE };
    scale(&mut node, id, 5, less);
    node.done(id, VmPhase::Running);
    assert_eq!(taken(&node), less);
}

#[test]
fn a_stop_that_comes_after_it_does_not_take_it_back_and_a_job_that_has_begun_is_not_cancelled() {
    let (mut node, id) = running(3);
    scale(&mut node, id, 1, TWICE);
    let job = node.core.provider().jobs().running(id).expect("it runs");
    let fault = super::provider::may_cancel(node.core.provider().jobs().get(job).unwrap()).unwrap_err();
    assert_eq!(fault.code, ErrorCode::WrongState);
    node.ask(TENANT, Request::Power { lease_id: id, act: ActId([2; 16]), action: PowerAction::Stop { force: true } });
    node.report(id, JobReport::Phase(VmPhase::Booting));
    node.done(id, VmPhase::Stopped);
    assert_eq!((node.row(id).vm, taken(&node)), (VmPhase::Stopped, TWICE));
}
