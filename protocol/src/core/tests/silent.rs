//! A provider that falls silent while it makes a VM.
use super::renting::{agree, ask_for, create, requestor, status};
use super::*;

/// Leased by the first provider, which is making it. The question about it that is under way.
fn making(node: &mut Node, request: CreateRequest) -> (LeaseId, u64) {
    let asked = sent(&ask_for(node, 1, request));
    let times = (node.now, node.now + spec().duration);
    let (lease_id, effects) = agree(node, asked[0].0, times, |lease_id| status(lease_id, 2, VmPhase::Booting));
    let [(rpc, _, Request::Watch { .. })] = &sent(&effects)[..] else { panic!("it is watched: {effects:?}") };
    (lease_id, *rpc)
}

/// No question is answered any more, for so long. What came of it.
fn silence(node: &mut Node, mut rpc: u64, lasts: Millis) -> Vec<Effect> {
    let (until, mut all) = (node.now + lasts, Vec::new());
    while node.now < until {
        let mut effects = node.wait(Millis::secs(5));
        effects.extend(node.input(Input::Response { rpc, result: Err(RpcFailure::Timeout) }));
        effects.extend(node.wait(Millis::secs(2)));
        if let Some((next, ..)) = sent(&effects).iter().find(|(.., request)| matches!(request, Request::Watch { .. })) {
            rpc = *next;
        }
        all.extend(effects);
    }
    all
}

fn notices(effects: &[Effect]) -> Vec<&str> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Notice { message, .. } => Some(message.as_str()),
        _ => None,
    });
    said.collect()
}

#[test]
fn another_is_taken_in_the_place_of_one_that_says_nothing_and_the_lease_is_given_back() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = making(&mut node, create(1, "web"));
    show(&mut node, 2);
    let effects = silence(&mut node, rpc, Millis::secs(15));
    assert_eq!(notices(&effects), Vec::<&str>::new(), "it may only be slow");
    let effects = silence(&mut node, last_watch(&effects), Millis::secs(15));
    let [said] = &notices(&effects)[..] else { panic!("one line: {:?}", notices(&effects)) };
    assert!(said.contains("is out (NET_001: it has said nothing for 2"), "{said}");
    let all = sent(&effects);
    let asked = |of: &dyn Fn(&Request) -> bool, n: u8| {
        all.iter().any(|(_, to, request)| *to == key(n).peer_id() && of(request))
    };
    assert!(asked(&|request| *request == Request::Release(lease_id), 1));
    assert!(asked(&|request| matches!(request, Request::Quote(_)), 2));
}

#[test]
fn who_is_the_only_one_is_waited_for_and_it_is_said_once() {
    for named in [false, true] {
        let mut node = requestor(&[1]);
        let provider = named.then(|| key(1).peer_id());
        let (lease_id, rpc) = making(&mut node, CreateRequest { provider, ..create(1, "web") });
        if named {
            show(&mut node, 2);
        }
        let effects = silence(&mut node, rpc, Millis::secs(60));
        let [said] = &notices(&effects)[..] else { panic!("one line: {:?}", notices(&effects)) };
        assert!(said.contains("it is waited for"), "{said}");
        // It comes back.
        let rpc = last_watch(&node.wait(Millis::secs(31)));
        node.input(Input::Response {
            rpc,
            result: Ok(Frame::encode(node.now, Response::Status(status(lease_id, 3, VmPhase::Running)))),
        });
        let rental = node.core.requestor().rental(CreateId([1; 16])).unwrap();
        assert!(rental.ran && rental.unreachable_since.is_none());
    }
}

#[test]
fn a_vm_that_has_run_is_never_given_up() {
    let mut node = requestor(&[1]);
    let (lease_id, rpc) = making(&mut node, create(1, "web"));
    show(&mut node, 2);
    let running = Response::Status(status(lease_id, 3, VmPhase::Running));
    node.input(Input::Response { rpc, result: Ok(Frame::encode(node.now, running)) });
    let effects = node.wait(Millis::secs(33));
    let asked = sent(&effects);
    let effects = silence(&mut node, asked[0].0, Millis::secs(120));
    assert_eq!(notices(&effects), Vec::<&str>::new());
    assert!(!sent(&effects).iter().any(|(.., request)| matches!(request, Request::Release(_) | Request::Quote(_))));
}

fn last_watch(effects: &[Effect]) -> u64 {
    let all = sent(effects);
    let mut watches = all.iter().filter(|(.., request)| matches!(request, Request::Watch { .. }));
    watches.next_back().expect("it is asked about").0
}

/// One more on the board.
fn show(node: &mut Node, n: u8) {
    let provider = requestor(&[n]);
    let advert = provider.core.board().get(START, key(n).peer_id()).unwrap().advert.signed().clone();
    node.ask(n, Request::Post(Posting::Advert(advert)));
}
