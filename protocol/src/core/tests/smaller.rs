//! A create whose user takes less than asked for.
use super::renting::{answer, ask_for, create, requestor};
use super::*;

fn wish(resources: Resources, allow_smaller: bool) -> CreateRequest {
    let query = Query { want: resources, ..create(1, "web").query };
    CreateRequest { spec: VmSpec { resources, ..spec() }, query, allow_smaller, ..create(1, "web") }
}
/// What is asked for within ten seconds, and what is said meanwhile.
fn goes_on(node: &mut Node, mut effects: Vec<Effect>) -> (Vec<(u64, Resources)>, Vec<String>) {
    for _ in 0..100 {
        effects.extend(node.wait(Millis(100)));
    }
    let quotes = sent(&effects).into_iter().filter_map(|(rpc, _, request)| match request {
        Request::Quote(quote) => Some((rpc, quote.spec.resources)),
        _ => None,
    });
    let notices = effects.iter().filter_map(|effect| match effect {
        Effect::Notice { message, .. } => Some(message.clone()),
        _ => None,
    });
    (quotes.collect(), notices.collect())
}
fn failed(node: &Node) -> bool {
    node.core.requestor().rentals().all(|rental| rental.phase == Phase::Failed)
}

#[test]
fn less_is_asked_for_only_where_that_was_said() {
    let mut node = requestor(&[1]);
    let effects = ask_for(&mut node, 1, wish(Resources::MEDIUM, false));
    assert_eq!(goes_on(&mut node, effects), (vec![], vec![]));
    assert!(failed(&node));

    let mut node = requestor(&[1]);
    let effects = ask_for(&mut node, 1, wish(Resources::MEDIUM, true));
    let (quotes, notices) = goes_on(&mut node, effects);
    assert_eq!(quotes.first().map(|(_, asked)| *asked), Some(Resources::SMALL));
    assert!(notices[0].contains("nobody gives 2 CPU, 4G memory, 20G disk: asking for 1 CPU, 2G"), "{notices:?}");
    let same = ask_for(&mut node, 2, wish(Resources::MEDIUM, true));
    let ok = |effect: &Effect| matches!(effect, Effect::Answer { ticket: 2, result: Ok(_) });
    assert!(same.iter().any(ok), "the same words mean the smaller VM");
    let strict = ask_for(&mut node, 3, wish(Resources::MEDIUM, false));
    assert!(strict.iter().any(|effect| matches!(effect, Effect::Answer { ticket: 3, result: Err(_) })));
}

#[test]
fn never_less_than_a_quarter() {
    let mut node = requestor(&[1]);
    let effects = ask_for(&mut node, 1, wish(Resources::LARGE, true));
    let (quotes, notices) = goes_on(&mut node, effects);
    assert_eq!((quotes.len(), notices.len()), (0, 2), "{notices:?}");
    assert!(failed(&node), "1 CPU, 2G is the least, and nobody has it");
}

#[test]
fn who_had_no_room_is_asked_for_less() {
    let mut node = requestor(&[1]);
    let asked = Resources::new(1, 1024, 10);
    let effects = ask_for(&mut node, 1, wish(asked, true));
    let rpc = sent(&effects)[0].0;
    let free = Resources::new(1, 512, 10);
    let full = Response::Refused(Refusal::Exhausted { asked, free, retry_after_s: None });
    let effects = answer(&mut node, rpc, full);
    let (quotes, _) = goes_on(&mut node, effects);
    assert_eq!(quotes.first().map(|(_, asked)| *asked), Some(free));
}
