//! The requestor's side.
use super::*;
use crate::core::requestor::{MAX_RENTALS, POWER_TRIES};
use crate::history::{Prospect, Scope};

pub fn create(n: u8, name: &str) -> CreateRequest {
    CreateRequest {
        create_id: CreateId([n; 16]),
        name: name.parse().unwrap(),
        spec: spec(),
        query: Query { want: Resources::SMALL, image: Some("tiny".parse().unwrap()), ..Query::default() },
        provider: None,
        seed: seed(),
        timeout: Millis::secs(300),
        identity_file: None,
        allow_smaller: false,
        project: None,
    }
}
pub fn ask_for(node: &mut Node, ticket: u64, request: CreateRequest) -> Vec<Effect> {
    node.input(Input::Create { ticket, request: Box::new(request) })
}
pub fn answer(node: &mut Node, rpc: u64, response: Response) -> Vec<Effect> {
    let body = Frame::encode(node.now, response);
    node.input(Input::Response { rpc, result: Ok(body) })
}
/// A requestor whose board shows this provider.
pub fn requestor(providers: &[u8]) -> Node {
    let mut node = Node::new(100);
    for n in providers {
        let mut provider = Node::new(*n);
        provider.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
        let entry = provider.core.board().get(START, key(*n).peer_id()).unwrap().advert.signed().clone();
        node.ask(*n, Request::Post(Posting::Advert(entry)));
    }
    node
}
pub fn quote_of(provider: u8, create: u8, now: Timestamp) -> Sealed<Quote> {
    let quote = Quote {
        network: "main".parse().unwrap(),
        provider: key(provider).peer_id(),
        requestor: key(100).peer_id(),
        quote_id: crate::names::QuoteId([create; 16]),
        boot_id: 1,
        spec: spec(),
        image_digest: Digest([1; 32]),
        guest_user: "root".parse().unwrap(),
        backend: "memory".parse().unwrap(),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        price: offer(1).price,
        issued: now,
        hold_until: now + Millis::secs(30),
        contested: false,
    };
    Sealed::seal(quote, &key(provider))
}
fn phase(node: &Node, n: u8) -> Option<Phase> {
    node.core.requestor().rental(CreateId([n; 16])).map(|rental| rental.phase)
}

#[test]
fn a_short_patience_ends_with_who_was_missing() {
    let mut node = Node::new(100);
    ask_for(&mut node, 1, CreateRequest { timeout: Millis::secs(1), ..create(1, "web") });
    node.wait(Millis::secs(1));
    let rental = node.core.requestor().rental(CreateId([1; 16])).unwrap();
    let fault = rental.fault.as_ref().expect("its time is over");
    assert_eq!(fault.code, ErrorCode::Unavailable, "{fault}");
}

/// Up to the active lease, by hand.
/// Answers with the lease, and with the question about it that is under way.
pub fn rent(node: &mut Node) -> (LeaseId, u64) {
    let times = (node.now, node.now + spec().duration);
    let (lease_id, effects) = start(node, times, |lease_id| status(lease_id, 2, VmPhase::Running));
    assert_eq!(phase(node, 1), Some(Phase::Leased));
    let [(rpc, _, Request::Status(_))] = &sent(&effects)[..] else { panic!("a question") };
    (lease_id, *rpc)
}
/// The same, with what the provider says about when it started, when it will end, and how its VM fares.
fn start(
    node: &mut Node,
    (started_at, ends_at): (Timestamp, Timestamp),
    said: impl Fn(LeaseId) -> LeaseStatus,
) -> (LeaseId, Vec<Effect>) {
    let asked = sent(&ask_for(node, 1, create(1, "web")));
    agree(node, asked[0].0, (started_at, ends_at), said)
}
/// From the first provider's quote on.
pub fn agree(
    node: &mut Node,
    quote_rpc: u64,
    (started_at, ends_at): (Timestamp, Timestamp),
    said: impl Fn(LeaseId) -> LeaseStatus,
) -> (LeaseId, Vec<Effect>) {
    let effects = answer(node, quote_rpc, Response::Quote(quote_of(1, 1, node.now).signed().clone()));
    let [(rpc, _, Request::Accept(accept))] = &sent(&effects)[..] else { panic!("an accept") };
    let lease_id = LeaseId::derive(key(1).peer_id(), key(100).peer_id(), CreateId([1; 16]));
    let (network, provider, requestor) = ("main".parse::<Network>().unwrap(), key(1).peer_id(), key(100).peer_id());
    let grant = Grant {
        network: network.clone(),
        provider,
        requestor,
        lease_id,
        accept_hash: accept.digest(),
        provisional_until: node.now + Millis::secs(30),
    };
    let grant = Sealed::seal(grant, &key(1));
    let effects = answer(node, *rpc, Response::Granted(grant.signed().clone()));
    let persisted = effects.iter().position(|effect| matches!(effect, Effect::Persist(_)));
    assert!(persisted < effects.iter().position(|effect| matches!(effect, Effect::Send { .. })));
    let [(rpc, _, Request::Confirm(_))] = &sent(&effects)[..] else { panic!("a confirm") };
    let grant_hash = grant.digest();
    let active = Active { network, provider, requestor, lease_id, grant_hash, started_at, ends_at };
    let active = Sealed::seal(active, &key(1)).signed().clone();
    let effects = answer(node, *rpc, Response::Active { active, status: said(lease_id) });
    (lease_id, effects)
}
pub fn status(lease_id: LeaseId, revision: u64, vm: VmPhase) -> LeaseStatus {
    let guest_user = "root".parse().unwrap();
    LeaseStatus {
        lease_id,
        stage: LeaseStage::Active,
        revision,
        vm,
        fault: None,
        guest_user,
        active: None,
        receipt: None,
        credit_ends: None,
        resources: None,
    }
}

#[test]
fn a_start_for_another_time_than_was_agreed_is_turned_down_and_released() {
    let running = |lease_id| status(lease_id, 2, VmPhase::Running);
    let (now, hour, second) = (START, spec().duration, Millis::secs(1));
    let (skew, late) = (advert::MAX_SKEW, Millis(advert::MAX_SKEW.0 + 1));
    for (started, ends) in [
        (now, (now + hour).set_back(second)),
        (now, now + hour + second),
        (now, Timestamp(1)),
        (now, now),
        (now.set_back(late), now.set_back(late) + hour),
        (now + late, now + late + hour),
        (Timestamp(u64::MAX), Timestamp(u64::MAX)),
    ] {
        let mut node = requestor(&[1]);
        let (lease_id, effects) = start(&mut node, (started, ends), running);
        assert_eq!(phase(&node, 1), Some(Phase::Failed), "{started:?} {ends:?}");
        assert!(sent(&effects).iter().any(|(_, _, request)| *request == Request::Release(lease_id)));
        let fault = node.core.requestor().rentals().next().unwrap().fault.clone().unwrap();
        assert!(fault.code == ErrorCode::BadToken && fault.message.contains("the start is"), "{fault}");
    }
    for started in [now, now.set_back(skew), now + skew] {
        let mut node = requestor(&[1]);
        start(&mut node, (started, started + hour), running);
        assert_eq!(phase(&node, 1), Some(Phase::Leased), "clocks differ that much");
    }
}

#[test]
fn what_the_last_provider_added_is_not_lost() {
    let mut node = requestor(&[1]);
    let fault = Fault::new(ErrorCode::CreateFailed, "it stopped").details("Kernel panic");
    let failed = |lease_id| LeaseStatus { fault: Some(fault.clone()), ..status(lease_id, 9, VmPhase::Failed) };
    start(&mut node, (START, START + spec().duration), failed);
    let fault = node.core.requestor().rentals().next().unwrap().fault.clone().unwrap();
    assert!(fault.details.as_ref().unwrap().ends_with("it stopped\nKernel panic"), "{fault:?}");
}

#[test]
fn what_a_create_took_is_known_at_the_next_and_after_a_restart() {
    let mut node = requestor(&[1]);
    let image = spec().image;
    let told = |node: &Node| {
        let requestor = node.core.requestor();
        let quote = requestor.rentals().next().unwrap();
        let entry = node.core.board().get(node.now, key(1).peer_id());
        (
            entry.map(|entry| requestor.estimate_of(entry, Some(&image), node.core.revoked())),
            requestor.estimate_for(quote, &node.core.network, node.core.revoked()),
        )
    };
    let booting = |lease_id| status(lease_id, 2, VmPhase::Booting);
    let (lease_id, effects) = start(&mut node, (START, START + spec().duration), booting);
    assert_eq!(told(&node), (Some(None), None), "there is no past");
    let [(rpc, _, Request::Watch { .. })] = &sent(&effects)[..] else { panic!("a watch") };
    node.now = node.now + Millis(7_500);
    answer(&mut node, *rpc, Response::Status(status(lease_id, 3, VmPhase::Running)));
    let (of, being_made) = told(&node);
    let estimate = of.flatten().expect("a past");
    assert_eq!((estimate.median, estimate.ninth_decile, estimate.samples), (Millis(7_500), Millis(7_500), 1));
    assert_eq!((estimate.scope, being_made), (Scope::Provider, None), "it runs already");
    node.restart();
    let requestor = node.core.requestor();
    let (provider, backend) = (key(2).peer_id(), "memory".parse().unwrap());
    let next =
        Prospect { provider, formerly: &[], image: Some(&image), backend: &backend, isolation: Isolation::Emulated };
    let elsewhere = requestor.history().estimate(next).expect("a past, on disk");
    assert_eq!((elsewhere.median, elsewhere.scope), (Millis(7_500), Scope::Kind));
}

#[test]
fn a_provider_that_failed_makes_nobody_else_look_slow() {
    let mut node = requestor(&[1, 2]);
    let mut asked = sent(&ask_for(&mut node, 1, create(1, "web")));
    asked.sort_by_key(|(_, to, _)| *to == key(1).peer_id());
    let mut effects = Vec::new();
    for ((rpc, ..), n) in asked.iter().zip([2, 1]) {
        let quote = quote_of(n, 1, node.now);
        effects = answer(&mut node, *rpc, Response::Quote(quote.signed().clone()));
    }
    let accept = sent(&effects)
        .into_iter()
        .find(|(_, to, request)| *to == key(2).peer_id() && matches!(request, Request::Accept(_)));
    node.now = node.now + Millis::secs(20);
    let refused = Response::Refused(Refusal::NotProviding);
    let effects = answer(&mut node, accept.expect("the first quote").0, refused);
    let again = sent(&effects).into_iter().find(|(_, _, request)| matches!(request, Request::Quote(_)));
    let (rpc, to, _) = again.expect("the other one is asked again");
    assert_eq!(to, key(1).peer_id());
    node.now = node.now + Millis::secs(1);
    let times = (node.now, node.now + spec().duration);
    agree(&mut node, rpc, times, |lease_id| status(lease_id, 2, VmPhase::Running));
    let rental = node.core.requestor().rentals().next().unwrap();
    assert_eq!(rental.marks.running - rental.created, Millis::secs(21));
    let backend = "memory".parse().unwrap();
    let next = Prospect { provider: to, formerly: &[], image: None, backend: &backend, isolation: Isolation::Emulated };
    assert_eq!(node.core.requestor().history().estimate(next).unwrap().median, Millis(0));
}

#[test]
fn a_late_quote_is_given_back() {
    let mut node = requestor(&[1, 2]);
    let asked = sent(&ask_for(&mut node, 1, create(1, "web")));
    assert_eq!(asked.len(), 2);
    node.input(Input::Destroy { ticket: 2, create_id: CreateId([1; 16]) });
    let provider = if asked[0].1 == key(1).peer_id() { 1 } else { 2 };
    let quote = quote_of(provider, 1, node.now);
    let effects = answer(&mut node, asked[0].0, Response::Quote(quote.signed().clone()));
    assert_eq!(sent(&effects)[0].2, Request::Decline(quote.quote_id));
    // Somebody else's quote is not worth an answer.
    let effects = answer(&mut node, asked[1].0, Response::Quote(quote.signed().clone()));
    assert!(sent(&effects).is_empty());
}

/// Whom a create turns to first.
pub fn asked(effects: &[Effect]) -> Vec<PeerId> {
    let quotes = sent(effects).into_iter().filter(|(.., request)| matches!(request, Request::Quote(_)));
    quotes.map(|(_, to, _)| to).collect()
}

#[test]
fn who_was_full_is_asked_last_until_its_next_advert() {
    let mut node = requestor(&[1]);
    let full = |asked: Resources| {
        Response::Refused(Refusal::Exhausted { asked, free: Resources::new(1, 512, 10), retry_after_s: None })
    };
    let rpc = sent(&ask_for(&mut node, 1, create(1, "a")))[0].0;
    answer(&mut node, rpc, full(Resources::SMALL));
    assert_eq!(phase(&node, 1), Some(Phase::Failed));

    let advert = |n: u8, after: Millis| {
        let mut provider = Node::new(n);
        provider.now = START + after;
        provider.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
        let entry = provider.core.board().get(provider.now, key(n).peer_id());
        Posting::Advert(entry.unwrap().advert.signed().clone())
    };
    node.ask(2, Request::Post(advert(2, Millis(0))));
    let (one, two) = (key(1).peer_id(), key(2).peer_id());
    let effects = ask_for(&mut node, 2, create(2, "b"));
    assert_eq!(asked(&effects), [two], "the other one has just said that it is full");
    let effects = answer(&mut node, sent(&effects)[0].0, full(Resources::SMALL));
    assert_eq!(asked(&effects), [one], "it may be free by now, and there is nobody else");
    let named = CreateRequest { provider: Some(one), ..create(3, "c") };
    assert_eq!(asked(&ask_for(&mut node, 3, named)), [one], "who is named is asked");
    let less = Resources::new(1, 512, 10);
    let less = CreateRequest { spec: VmSpec { resources: less, ..spec() }, ..create(4, "d") };
    assert_eq!(asked(&ask_for(&mut node, 4, less)).len(), 2, "so much it has");
    node.wait(Millis::secs(30));
    node.ask(1, Request::Post(advert(1, Millis::secs(30))));
    assert_eq!(asked(&ask_for(&mut node, 5, create(5, "e"))), [one], "it has said since that it has room");
}

#[test]
fn a_node_does_not_ask_itself() {
    let mut node = Node::provider(1);
    assert!(sent(&ask_for(&mut node, 1, create(1, "web"))).is_empty());
    node.wait(Millis::secs(5));
    let fault = node.core.requestor().rental(CreateId([1; 16])).unwrap().fault.clone().unwrap();
    assert_eq!(fault.code, ErrorCode::Unavailable);
}

#[test]
fn the_same_create_is_the_same_vm_and_another_one_is_refused() {
    let mut node = requestor(&[1]);
    ask_for(&mut node, 1, create(1, "web"));
    let result = |effects: Vec<Effect>| {
        let answer = effects.into_iter().find_map(|effect| match effect {
            Effect::Answer { result, .. } => Some(result),
            _ => None,
        });
        answer.expect("an answer")
    };
    assert_eq!(result(ask_for(&mut node, 2, create(9, "web"))), Ok(CreateId([1; 16])));
    let other = CreateRequest { spec: VmSpec { resources: Resources::LARGE, ..spec() }, ..create(9, "web") };
    assert_eq!(result(ask_for(&mut node, 3, other)).unwrap_err().code, ErrorCode::VmExists);
    let taken = result(ask_for(&mut node, 4, create(1, "other")));
    assert_eq!(taken.unwrap_err().code, ErrorCode::VmExists, "nor may an id be taken over by another name");
}

#[test]
fn failures_never_stand_in_the_way() {
    let mut node = Node::new(100);
    for n in 0..MAX_RENTALS + 5 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let request = CreateRequest { create_id: CreateId(id), ..create(0, &format!("vm-{n}")) };
        ask_for(&mut node, n as u64, request);
        if n % 100 == 99 {
            node.wait(Millis::secs(6));
        }
    }
    assert!(node.core.requestor().rentals().count() <= MAX_RENTALS);
    let last: crate::names::VmName = format!("vm-{}", MAX_RENTALS + 4).parse().unwrap();
    assert!(node.core.requestor().by_name(&last).is_some());
}

#[test]
fn a_rental_that_was_lost_leaves_no_timer() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = rent(&mut node);
    answer(&mut node, rpc, Response::Refused(Refusal::NoSuchLease(lease_id)));
    assert_eq!(phase(&node, 1), Some(Phase::Failed));
    assert!(node.core.requestor().next_deadline().is_none());
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for_without_end() {
    let mut node = requestor(&[1]);
    rent(&mut node);
    let mut asked = 0;
    for _ in 0..40 {
        asked += sent(&node.wait(Millis::secs(5))).len();
    }
    assert!((3..20).contains(&asked), "{asked} questions in 200 s to a mesh that forgets them");
    node.input(Input::Power { ticket: 7, create_id: CreateId([1; 16]), action: PowerAction::Restart });
    let effects = node.wait(Millis::secs(15));
    let answered = effects.iter().any(|effect| matches!(effect, Effect::Answer { ticket: 7, result: Err(_) }));
    assert!(answered, "a command has its answer, too");
}

#[test]
fn a_switch_whose_answer_is_lost_is_asked_for_again_as_the_same() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = rent(&mut node);
    answer(&mut node, rpc, Response::Status(status(lease_id, 3, VmPhase::Running)));
    let power = |effects: &[Effect]| match &sent(effects)[..] {
        [(rpc, _, Request::Power { act, .. })] => (*rpc, *act),
        other => panic!("{other:?}"),
    };
    let lose = |node: &mut Node, rpc| node.input(Input::Response { rpc, result: Err(RpcFailure::Timeout) });
    let command = |ticket| Input::Power { ticket, create_id: CreateId([1; 16]), action: PowerAction::Restart };
    let (rpc, act) = power(&node.input(command(7)));
    let (rpc, again) = power(&lose(&mut node, rpc));
    assert_eq!(again, act);
    let effects = answer(&mut node, rpc, Response::Status(status(lease_id, 4, VmPhase::Stopping)));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Answer { ticket: 7, result: Ok(_) })));

    let (mut rpc, other) = power(&node.input(command(8)));
    assert_ne!(other, act);
    for _ in 1..POWER_TRIES {
        rpc = power(&lose(&mut node, rpc)).0;
    }
    let effects = lose(&mut node, rpc);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Answer { ticket: 8, result: Err(_) })));
}

#[test]
fn a_command_is_answered_when_its_vm_is_destroyed_meanwhile() {
    let mut node = requestor(&[1]);
    rent(&mut node);
    node.input(Input::Power { ticket: 7, create_id: CreateId([1; 16]), action: PowerAction::Restart });
    let effects = node.input(Input::Destroy { ticket: 8, create_id: CreateId([1; 16]) });
    let answered =
        |ticket: u64| effects.iter().any(|effect| matches!(effect, Effect::Answer { ticket: of, .. } if *of == ticket));
    assert!(answered(7) && answered(8));
}

#[test]
fn a_release_ends_with_its_lease_when_its_provider_never_comes_back() {
    let mut node = requestor(&[1]);
    rent(&mut node);
    node.input(Input::Destroy { ticket: 2, create_id: CreateId([1; 16]) });
    node.restart();
    node.wait(Millis::secs(1800));
    assert!(node.core.requestor().has_unfinished());
    assert_eq!(phase(&node, 1), Some(Phase::Releasing));
    node.wait(Millis::secs(1800 + 121));
    assert!(!node.core.requestor().has_unfinished());
    assert!(node.disk.keys().all(|(table, _)| *table == Table::History), "what it took is remembered, no more");
}

#[test]
fn a_hostile_providers_words_do_not_fill_the_disk() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = rent(&mut node);
    let fault = Fault::internal("x".repeat(100_000)).details("\u{1b}]0;".repeat(20_000));
    let loud = LeaseStatus { fault: Some(fault), ..status(lease_id, 9, VmPhase::Running) };
    answer(&mut node, rpc, Response::Status(loud));
    let stored = node.disk.values().filter_map(|op| op.value.as_ref()).map(Vec::len).max().unwrap();
    assert!(stored < MAX_STORED / 16, "{stored} bytes");
    let rental = node.core.requestor().rentals().next().unwrap();
    assert!(!format!("{:?}", rental.fault).contains('\u{1b}'));
}

#[test]
fn a_status_that_was_overtaken_changes_nothing() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = rent(&mut node);
    let rental = |node: &Node| node.core.requestor().rentals().next().unwrap().status.clone().unwrap();
    answer(&mut node, rpc, Response::Status(status(lease_id, 5, VmPhase::Stopped)));
    let asked = sent(&node.wait(Millis::secs(40)));
    answer(&mut node, asked[0].0, Response::Status(status(lease_id, 4, VmPhase::Stopping)));
    assert_eq!((rental(&node).revision, rental(&node).vm), (5, VmPhase::Stopped));
}

#[test]
fn a_watch_without_news_is_not_a_storm() {
    let mut node = requestor(&[1]);
    let (lease_id, mut rpc) = rent(&mut node);
    // It moves, and its provider answers every watch at once.
    let mut questions = 0;
    for _ in 0..6_000 {
        let mut effects = answer(&mut node, rpc, Response::Status(status(lease_id, 5, VmPhase::Stopping)));
        effects.extend(node.wait(Millis(10)));
        if let Some((next, ..)) = sent(&effects).first() {
            rpc = *next;
            questions += 1;
        }
    }
    assert!((9..=12).contains(&questions), "{questions} in a minute");
}

/// Five providers of one price. Those whose quotes others may take first are the last choice, and others are asked once.
#[test]
fn a_quote_that_others_may_take_first_is_the_last_choice() {
    let contested = |n: u8, now: Timestamp| {
        let quote = Quote { contested: true, ..(*quote_of(n, 1, now)).clone() };
        Response::Quote(Sealed::seal(quote, &key(n)).signed().clone())
    };
    let number = |peer: PeerId| (1..=5).find(|n| key(*n).peer_id() == peer).unwrap();
    let accepts = |effects: &[Effect]| -> Vec<u8> {
        let all = sent(effects);
        all.iter().filter(|(.., request)| matches!(request, Request::Accept(_))).map(|(_, to, _)| number(*to)).collect()
    };
    for some_free in [true, false] {
        let mut node = requestor(&[1, 2, 3, 4, 5]);
        let first = sent(&ask_for(&mut node, 1, create(1, "web")));
        assert_eq!(first.len(), 3);
        let mut effects = Vec::new();
        for (rpc, to, _) in &first {
            let said = contested(number(*to), node.now);
            effects = answer(&mut node, *rpc, said);
        }
        let others = sent(&effects);
        let is_question = |request: &Request| matches!(request, Request::Quote(_));
        assert!(others.len() == 2 && others.iter().all(|(.., request)| is_question(request)), "who was not asked yet");
        for (rpc, to, _) in &others {
            let free = Response::Quote(quote_of(number(*to), 1, node.now).signed().clone());
            let said = if some_free { free } else { contested(number(*to), node.now) };
            effects = answer(&mut node, *rpc, said);
        }
        let taken = accepts(&effects);
        assert_eq!(taken.len(), 1, "one is accepted in the end");
        let is_new = others.iter().any(|(_, to, _)| number(*to) == taken[0]);
        assert!(is_new || !some_free, "one that nobody else is deciding on");
    }
}

#[test]
fn a_provider_that_stops_says_so_of_its_own_vms_only_and_is_looked_for_all_the_same() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = rent(&mut node);
    answer(&mut node, rpc, Response::Status(status(lease_id, 2, VmPhase::Running)));
    let away = |node: &Node| {
        let rental = node.core.requestor().rental(CreateId([1; 16])).unwrap();
        rental.unreachable_since.map(|_| rental.fault.as_ref().map(|fault| fault.code))
    };
    let warned = |effects: &[Effect]| {
        let says = |effect: &&Effect| matches!(effect, Effect::Event(event) if event.message.contains("runs on"));
        effects.iter().filter(says).count()
    };
    assert_eq!((warned(&node.ask_all(9, Request::Away)), away(&node)), (0, None), "a stranger");
    assert_eq!(warned(&node.ask_all(1, Request::Away)), 1);
    assert_eq!(warned(&node.ask_all(1, Request::Away)), 0, "that is known");
    assert_eq!(away(&node), Some(Some(ErrorCode::Unavailable)));
    // It cannot be reached, and the reason is known.
    let asked = node.wait(Millis::secs(33));
    let [(rpc, _, Request::Status(_))] = &sent(&asked)[..] else { panic!("a question") };
    node.input(Input::Response { rpc: *rpc, result: Err(RpcFailure::Timeout) });
    assert_eq!(away(&node), Some(Some(ErrorCode::Unavailable)));
    let asked = node.wait(Millis::secs(33));
    let [(rpc, _, Request::Status(_))] = &sent(&asked)[..] else { panic!("a question") };
    answer(&mut node, *rpc, Response::Status(status(lease_id, 2, VmPhase::Running)));
    assert_eq!(away(&node), None);
}
