//! The provider's side.
use super::*;

#[test]
fn a_hold_stands_until_somebody_else_has_accepted() {
    let mut node = Node::provider(1);
    let slow = node.quote(2, 1).unwrap();
    let quick = node.quote(3, 1).unwrap();
    assert!(node.accept(3, 1, &quick).is_ok(), "who only asks keeps nobody from renting");
    assert!(matches!(node.accept(2, 1, &slow), Err(Refusal::Exhausted { .. })));
    assert!(matches!(node.quote(4, 1), Err(Refusal::Exhausted { .. })));
    // What was granted and not confirmed is free again after 30 s, and nothing has to happen between.
    node.now = node.now + Millis::secs(30);
    let again = node.quote(4, 1).unwrap();
    assert!(node.accept(4, 1, &again).is_ok());
}

#[test]
fn holds_are_few_for_a_block_of_addresses_and_in_all() {
    let mut node = Node::provider(9);
    let ask = |node: &mut Node, from: u16, block: u8| {
        node.token += 1;
        let mut secret = [9; 32];
        secret[..2].copy_from_slice(&from.to_le_bytes());
        let request = Request::Quote(QuoteReq { create_id: CreateId([1; 16]), spec: spec() });
        let site = Some(Site::At(Block::V4([198, 51, block])));
        let (from, body) = (Keypair::from_secret(&secret).peer_id(), Frame::encode(node.now, request));
        let effects = node.input(Input::Request { token: node.token, from, site, body });
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { body, .. } => Some(Frame::<Response>::decode(&body).unwrap().body),
            _ => None,
        });
        matches!(reply, Some(Response::Quote(_)))
    };
    let given = (0..200).filter(|n| ask(&mut node, *n, 1)).count();
    assert_eq!(given, HOLDS_PER_BLOCK, "as many as one site has");
    let given = (0..1000).filter(|n| ask(&mut node, 1000 + *n, (n % 100) as u8 + 2)).count();
    assert_eq!(given, MAX_HOLDS - HOLDS_PER_BLOCK);
    assert!(!ask(&mut node, 5000, 200), "those that stand are still being decided on");
    node.now = node.now + Millis::secs(2);
    assert!(ask(&mut node, 5000, 200), "and then the oldest goes");
    assert_eq!(node.core.provider().ledger().holds().count(), MAX_HOLDS);
}

#[test]
fn a_create_holds_one_place_however_often_it_asks() {
    let mut node = Node::provider(2);
    let first = node.quote(2, 1).unwrap();
    assert_eq!(node.quote(2, 1).unwrap().quote_id, first.quote_id, "the same answer");
    node.now = node.now + Millis::secs(15);
    assert_ne!(node.quote(2, 1).unwrap().quote_id, first.quote_id, "a new one that can still be accepted");
    assert_eq!(node.core.provider().ledger().holds().count(), 1);
    assert_eq!(node.accept(2, 1, &first).unwrap_err(), Refusal::QuoteGone);
}

#[test]
fn holds_in_use_are_not_dropped_for_further_ones() {
    let mut node = Node::provider(64);
    let quotes: Vec<_> = (0..HOLDS_PER_REQUESTOR as u8).map(|create| node.quote(2, create).unwrap()).collect();
    assert!(matches!(node.quote(2, 200), Err(Refusal::TooManyRequests { .. })));
    assert!(node.accept(2, 0, &quotes[0]).is_ok());
    node.now = node.now + Millis::secs(6);
    assert!(node.quote(2, 201).is_ok() && node.quote(2, 202).is_ok(), "an old one goes");
}

#[test]
fn only_its_own_words_are_granted_and_repeated() {
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    let accept = accept_of(2, 1, &quote, node.now);
    let first = node.ask(2, Request::Accept(accept.clone()));
    assert_eq!(node.ask(2, Request::Accept(accept.clone())), first, "said again, the same answer");
    let other = accept_of(2, 1, &quote, node.now + Millis(1));
    assert_eq!(node.ask(2, Request::Accept(other)), Response::Refused(Refusal::Conflict));
    // By another connection than the signer's.
    assert!(matches!(node.ask(3, Request::Accept(accept)), Response::Refused(Refusal::BadSignature(_))));
}

#[test]
fn persist_comes_before_reply_and_start() {
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    let effects = node.ask_all(2, Request::Accept(accept_of(2, 1, &quote, node.now)));
    let at = |effects: &[Effect], wanted: fn(&Effect) -> bool| effects.iter().position(wanted).expect("an effect");
    let persist = |effect: &Effect| matches!(effect, Effect::Persist(_));
    let reply = |effect: &Effect| matches!(effect, Effect::Reply { .. });
    assert!(at(&effects, persist) < at(&effects, reply));
    let id = LeaseId::derive(key(1).peer_id(), key(2).peer_id(), CreateId([1; 16]));
    let grant: Sealed<Grant> = node.row(id).grant.clone().open(node.core.network()).unwrap();
    let effects = node.ask_all(2, Request::Confirm(confirm_of(2, &grant, node.now)));
    assert!(at(&effects, persist) < at(&effects, reply));
    assert!(at(&effects, reply) < at(&effects, |e| matches!(e, Effect::RunJob(_))));
    let effects = node.ask_all(2, Request::Release(id));
    assert!(at(&effects, persist) < at(&effects, |e| matches!(e, Effect::RunJob(_))));
}

#[test]
fn a_release_overtakes_its_accept_and_its_confirm() {
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    let id = LeaseId::derive(key(1).peer_id(), key(2).peer_id(), CreateId([1; 16]));
    assert!(matches!(node.ask(2, Request::Release(id)), Response::Refused(Refusal::NoSuchLease(_))));
    assert!(matches!(node.ask(2, Request::Release(id)), Response::Refused(Refusal::Released(_))));
    assert_eq!(node.accept(2, 1, &quote).unwrap_err(), Refusal::Released(id), "a late accept starts nothing");
    let quote = node.quote(2, 2).unwrap();
    let grant = node.accept(2, 2, &quote).unwrap();
    assert!(matches!(node.ask(2, Request::Release(grant.lease_id)), Response::Status(_)));
    assert_eq!(node.confirm(2, &grant), Response::Refused(Refusal::Released(grant.lease_id)));
    assert_eq!(node.accept(2, 2, &quote).unwrap_err(), Refusal::Released(grant.lease_id));
    assert_eq!(node.core.provider().ledger().vms(), 0);
}

#[test]
fn releases_of_nothing_are_bounded_and_repeat() {
    let mut node = Node::provider(1);
    for n in 0..TOMBSTONES_PER_REQUESTOR as u8 {
        node.ask(2, Request::Release(LeaseId([n; 16])));
    }
    let full = node.ask(2, Request::Release(LeaseId([99; 16])));
    assert!(matches!(full, Response::Refused(Refusal::TooManyRequests { .. })));
    let again = node.ask(2, Request::Release(LeaseId([0; 16])));
    assert!(matches!(again, Response::Refused(Refusal::Released(_))));
    node.wait(Millis::secs(151));
    assert!(matches!(node.ask(2, Request::Release(LeaseId([99; 16]))), Response::Refused(Refusal::NoSuchLease(_))));
}

#[test]
fn a_grant_that_nobody_confirms_lapses_and_is_no_lease() {
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    let grant = node.accept(2, 1, &quote).unwrap();
    node.restart();
    assert_eq!(node.core.provider().ledger().vms(), 1, "a grant outlives a restart");
    node.now = node.now + Millis::secs(30);
    assert_eq!(node.confirm(2, &grant), Response::Refused(Refusal::NoSuchLease(grant.lease_id)));
    assert!(node.disk.is_empty());
}

#[test]
fn a_draining_provider_takes_back_quotes_and_honours_grants() {
    let mut node = Node::provider(2);
    let quoted = node.quote(2, 1).unwrap();
    let quote = node.quote(2, 2).unwrap();
    let grant = node.accept(2, 2, &quote).unwrap();
    node.input(Input::Drain);
    assert_eq!(node.accept(2, 1, &quoted).unwrap_err(), Refusal::QuoteGone);
    assert_eq!(node.quote(2, 3).unwrap_err(), Refusal::NotProviding);
    assert!(matches!(node.confirm(2, &grant), Response::Active { .. }));
    assert!(matches!(node.ask(2, Request::Status(grant.lease_id)), Response::Status(_)));
}

#[test]
fn an_offer_that_shrinks_lets_no_more_than_it_has() {
    let mut node = Node::provider(3);
    let first = node.quote(2, 1).unwrap();
    let second = node.quote(3, 2).unwrap();
    node.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
    assert!(node.accept(2, 1, &first).is_ok());
    assert!(matches!(node.accept(3, 2, &second), Err(Refusal::Exhausted { .. })));
    // A host that only pauses stands by what it quoted.
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    node.input(Input::Offer(Offering::Nothing { reason: "busy".into() }));
    assert!(node.accept(2, 1, &quote).is_ok());
}

#[test]
fn questions_do_not_make_a_provider_flood_the_mesh() {
    let mut node = Node::provider(1);
    node.wait(Millis::secs(10));
    let mut posts = 0;
    for n in 0..50 {
        let effects = node.ask_all(2, Request::Quote(QuoteReq { create_id: CreateId([n; 16]), spec: spec() }));
        posts += published(&effects);
        let quote = node.core.provider().ledger().holds().next().map(|hold| hold.quote.quote_id).unwrap();
        posts += published(&node.ask_all(2, Request::Decline(quote)));
    }
    assert_eq!(posts, 0);
    // Full, empty, full again: a withdrawal at once, the offer again after a pause.
    for n in 0..20 {
        let id = node.lease(2, n);
        node.ask(2, Request::Release(id));
        posts += published(&node.done(id, VmPhase::Gone));
        posts += published(&node.wait(Millis(100)));
    }
    assert!(posts <= 2, "{posts} in two seconds");
}

#[test]
fn capacity_counts_until_the_vm_is_gone() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.fails(id, VmPhase::Failed, Fault::internal("no KVM"));
    assert_eq!((node.row(id).stage, node.row(id).vm), (LeaseStage::Ended, VmPhase::Destroying));
    assert!(matches!(node.quote(3, 1), Err(Refusal::Exhausted { .. })));
    let effects = node.restart();
    assert!(removes(&effects, id), "after a restart too");
    node.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
    node.done(id, VmPhase::Gone);
    assert!(node.quote(3, 1).is_ok());
    assert_eq!(node.row(id).fault.as_ref().map(|fault| fault.message.as_str()), Some("no KVM"), "its tenant reads why");
}

/// Also when it is made once more, and the provider offers something else by then.
#[test]
fn a_guest_is_made_with_the_egress_that_was_quoted() {
    let made = |effects: Vec<Effect>| {
        let order = begun(&effects).into_iter().find_map(|(_, work)| match work {
            Work::Provision(order) => Some(order.egress),
            _ => None,
        });
        order.expect("a guest is made")
    };
    let offers = |egress| Input::Offer(Offering::Vms(Box::new(Offer { egress, ..offer(1) })));
    let mut node = Node::provider(1);
    node.input(offers(Egress::Internet));
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    node.restart();
    node.input(offers(Egress::Open));
    node.found(&[]);
    let again = Request::Power { lease_id: id, act: ActId([1; 16]), action: PowerAction::Start };
    assert_eq!(made(node.ask_all(2, again)), Egress::Internet);
}

#[test]
fn what_has_run_survives_a_failure_and_what_has_not_ends() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    node.restart();
    node.found(&[(id, FoundState::Off)]);
    node.report(id, JobReport::Phase(VmPhase::Provisioning(ProvisionStep::Disk)));
    let effects = node.fails(id, VmPhase::Failed, Fault::internal("no KVM"));
    assert!(!removes(&effects, id), "its disk is its tenant's");
    assert_eq!((node.row(id).stage, node.row(id).vm), (LeaseStage::Active, VmPhase::Failed));
    let effects = node.ask_all(2, Request::Power { lease_id: id, act: ActId([1; 16]), action: PowerAction::Start });
    assert_eq!(provisions(&effects), 1);
}

#[test]
fn an_action_that_is_asked_for_again_is_not_done_again() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let done = switches;
    let restart = |act: u8| Request::Power { lease_id: id, act: ActId([act; 16]), action: PowerAction::Restart };
    assert_eq!(done(&node.ask_all(2, restart(1))), 1);
    assert!(matches!(node.ask(2, restart(1)), Response::Status(status) if status.vm == VmPhase::Stopping));
    node.report(id, JobReport::Phase(VmPhase::Booting));
    node.done(id, VmPhase::Running);
    assert_eq!(done(&node.ask_all(2, restart(1))), 0, "it is done");
    node.restart();
    assert_eq!(done(&node.ask_all(2, restart(1))), 0, "and stays so");
    assert_eq!(done(&node.ask_all(2, restart(2))), 1);
    for act in 3..40 {
        node.done(id, VmPhase::Running);
        node.ask_all(2, restart(act));
    }
    assert_eq!(node.row(id).acts.len(), 16);
}

#[test]
fn a_vanished_vm_is_failed_and_not_replaced_unasked() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    node.found(&[]);
    assert_eq!((node.row(id).stage, node.row(id).vm), (LeaseStage::Active, VmPhase::Failed));
    assert!(node.row(id).counts(), "its place is still its tenant's");
    assert_eq!(begun(&node.restart()), []);
    assert_eq!(begun(&node.found(&[])), []);
}

#[test]
fn a_guest_that_runs_on_after_its_lease_is_switched_off_again() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let stops = |effects: &[Effect]| switches(effects) == 1;
    assert!(stops(&node.wait(Millis::secs(3600))));
    assert_eq!(node.row(id).stage, LeaseStage::Expired);
    node.fails(id, VmPhase::Running, Fault::internal("busy"));
    assert!(stops(&node.wait(Millis::secs(30))));
    node.done(id, VmPhase::Stopped);
    assert!(!stops(&node.wait(Millis::secs(60))));
    // The grace time that stood when it expired is kept, also by a run that has no offer (yet).
    let effects = node.restart();
    assert!(effects.is_empty());
    node.wait(Millis::secs(6 * 86_400));
    assert_eq!(node.row(id).stage, LeaseStage::Expired);
    let effects = node.wait(Millis::secs(86_400));
    assert!(removes(&effects, id));
}

#[test]
fn watches_are_bounded_and_answered() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    let seen = node.row(id).revision;
    let mut at_once = 0;
    for _ in 0..100 {
        let effects = node.ask_all(2, Request::Watch { lease_id: id, seen });
        at_once += effects.iter().filter(|effect| matches!(effect, Effect::Reply { .. })).count();
    }
    assert_eq!(at_once, 84, "sixteen wait, the others are told what there is");
    let effects = node.report(id, JobReport::Phase(VmPhase::Booting));
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Reply { .. })).count(), 16);
    assert!(matches!(node.ask(3, Request::Watch { lease_id: id, seen: 0 }), Response::Refused(Refusal::NotYours(_))));
}

#[test]
fn a_stranger_sees_and_does_nothing() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    for request in [
        Request::Status(id),
        Request::Release(id),
        Request::Power { lease_id: id, act: ActId([1; 16]), action: PowerAction::Stop { force: true } },
    ] {
        let effects = node.ask_all(3, request);
        let noted = effects.iter().any(
            |effect| matches!(effect, Effect::Event(event) if event.code == Some(ErrorCode::NotYours) && event.kind == EventKind::Security),
        );
        assert!(noted, "and it is recorded");
    }
    assert_eq!(node.core.authorise_tunnel(node.now, key(3).peer_id(), id), Err(Refusal::NotYours(id)));
    assert_eq!(node.core.authorise_tunnel(node.now, key(2).peer_id(), id), Ok(()));
    assert_eq!(node.row(id).vm, VmPhase::Running);
}

#[test]
fn the_same_offence_again_and_again_is_one_event() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    let ask = |node: &mut Node, request: Request| -> Vec<String> {
        let events = node.ask_all(3, request).into_iter().filter_map(|effect| match effect {
            Effect::Event(event) => Some(event.message),
            _ => None,
        });
        events.collect()
    };
    let mut told = 0;
    for _ in 0..50 {
        told += ask(&mut node, Request::Status(id)).len();
        let stop = Request::Power { lease_id: id, act: ActId([1; 16]), action: PowerAction::Stop { force: true } };
        told += ask(&mut node, stop).len();
        node.now = node.now + Millis(100);
    }
    assert_eq!(told, 2, "each kind once, though each was answered");
    node.now = node.now + Millis::secs(10);
    let later = ask(&mut node, Request::Status(id));
    assert!(matches!(&later[..], [message] if message.contains("49 refusals")), "{later:?}");
}

#[test]
fn what_proves_ill_will_is_counted_each_time_and_what_does_not_never() {
    let mut node = Node::provider(1);
    let (id, stranger) = (node.lease(2, 1), key(3).peer_id());
    let proven = |effects: &[Effect]| {
        let of_stranger = |effect: &&Effect| matches!(effect, Effect::Offence { by, .. } if *by == stranger);
        effects.iter().filter(of_stranger).count()
    };
    for token in 900..903 {
        let body = vec![0xff; 9];
        node.core.handle(node.now, Input::Request { token, from: stranger, site: None, body: body.clone() });
        assert_eq!(proven(&node.core.drain_effects().collect::<Vec<_>>()), 1, "though it makes one event only");
        node.core.handle(node.now, Input::Gossip { id: token, from: stranger, body });
        assert_eq!(proven(&node.core.drain_effects().collect::<Vec<_>>()), 1);
    }
    assert_eq!(proven(&node.ask_all(3, Request::Status(id))), 0, "it may have lost its identity");
}

#[test]
fn a_strangers_release_does_not_undo_the_owners() {
    let mut node = Node::provider(1);
    let quote = node.quote(2, 1).unwrap();
    let accept = accept_of(2, 1, &quote, node.now);
    let id = LeaseId::derive(key(1).peer_id(), key(2).peer_id(), CreateId([1; 16]));
    for from in [2, 3] {
        assert_eq!(node.ask(from, Request::Release(id)), Response::Refused(Refusal::NoSuchLease(id)));
    }
    let late = node.ask(2, Request::Accept(accept));
    assert_eq!(late, Response::Refused(Refusal::Released(id)), "a late accept starts nothing");
}

#[test]
fn a_clock_set_back_holds_nothing_longer() {
    let mut node = Node::provider(1);
    node.quote(2, 1).unwrap();
    node.now = node.now.set_back(Millis::secs(86_400));
    node.input(Input::Tick);
    assert_eq!(node.core.provider().ledger().holds().count(), 1);
    node.wait(Millis::secs(30));
    assert_eq!(node.core.provider().ledger().holds().count(), 0, "a hold lapses");
    let quote = node.quote(3, 1).unwrap();
    node.accept(3, 1, &quote).unwrap();
    node.now = node.now.set_back(Millis::secs(86_400));
    node.input(Input::Tick);
    node.wait(Millis::secs(30));
    assert_eq!(node.core.provider().ledger().vms(), 0, "a grant lapses");
    assert!(node.quote(3, 2).is_ok());
}

#[test]
fn a_peers_absurd_clock_does_no_harm() {
    let mut node = Node::provider(1);
    for (from, sent) in [(2, u64::MAX), (3, 1 << 63), (4, 0)] {
        let body = Frame::encode(Timestamp(sent), Request::Status(LeaseId([0; 16])));
        node.input(Input::Request { token: 1, from: key(from).peer_id(), site: None, body });
    }
}

#[test]
fn a_tier_bounds_what_its_holder_has_and_not_what_others_have() {
    let mut node = Node::provider(9);
    let peer = |n: u8| key(n).peer_id();
    let set = |node: &mut Node, n: u8, tier| node.input(Input::SetQuota { peer: peer(n), tier });
    set(&mut node, 2, Some(Tier::Free));
    let first = node.quote(2, 1).unwrap();
    let Err(Refusal::Quota { tier: Tier::Free, used, .. }) = node.quote(2, 2) else {
        panic!("one VM, and one is held")
    };
    assert_eq!(used.vms, 1);
    assert!(node.quote(3, 1).is_ok(), "a stranger has no tier");
    // A question that was left alone makes room for the next.
    node.now = node.now + Millis::secs(6);
    let second = node.quote(2, 2).unwrap();
    assert_eq!(node.accept(2, 1, &first).unwrap_err(), Refusal::QuoteGone);
    let grant = node.accept(2, 2, &second).unwrap();
    node.confirm(2, &grant);
    node.now = node.now + Millis::secs(6);
    assert!(matches!(node.quote(2, 3), Err(Refusal::Quota { .. })), "what is let stays");

    set(&mut node, 2, Some(Tier::Pro));
    node.restart();
    node.input(Input::Offer(Offering::Vms(Box::new(offer(9)))));
    node.lease(2, 3);
    node.lease(2, 4);
    assert!(matches!(node.quote(2, 5), Err(Refusal::Quota { tier: Tier::Pro, .. })), "also after a restart");
    set(&mut node, 2, None);
    node.restart();
    node.input(Input::Offer(Offering::Vms(Box::new(offer(9)))));
    assert!(node.quote(2, 5).is_ok());
}

#[test]
fn many_questions_at_once_never_pass_the_tier() {
    let mut node = Node::provider(9);
    node.input(Input::SetQuota { peer: key(2).peer_id(), tier: Some(Tier::Pro) });
    let quotes: Vec<_> = (0..9).filter_map(|create| Some((create, node.quote(2, create).ok()?))).collect();
    assert_eq!(quotes.len(), 3);
    let granted = quotes.iter().filter(|(create, quote)| node.accept(2, *create, quote).is_ok()).count();
    assert_eq!((granted, node.core.provider().ledger().usage_of(&[key(2).peer_id()]).vms), (3, 3));
}
