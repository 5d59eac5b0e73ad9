//! What a lease costs, what is said of it, and when it ends.
use super::*;
use crate::meter::{MAX_PRICES, SAMPLE};
use crate::money::Sum;
use crate::receipt::{Countersign, Receipt, ReceiptDocument};
use crate::renewal::{Renew, RenewQuote, Renewed};

const MINUTE: Millis = Millis::secs(60);

fn sum(text: &str) -> Sum {
    text.parse().unwrap()
}
fn euro() -> crate::names::Currency {
    "EUR".parse().unwrap()
}
/// At 3.6 EUR an hour: a thousandth each second.
fn dear() -> Node {
    let mut node = Node::new(1);
    let price = Price { per_hour: "3.6".parse().unwrap(), currency: euro() };
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { price, prepaid: true, ..offer(3) }))));
    node
}
fn grant(node: &mut Node, peer: u8, text: &str) {
    node.input(Input::GrantCredit { peer: key(peer).peer_id(), currency: euro(), sum: sum(text) });
}
fn look(node: &mut Node, there: &[(LeaseId, FoundState)]) -> Vec<Effect> {
    let found = there.iter().map(|(lease_id, state)| Found { lease_id: *lease_id, state: *state }).collect();
    node.input(Input::Inventory(found))
}
/// Time goes by, and every minute the guest is seen to be on.
fn runs_for(node: &mut Node, id: LeaseId, minutes: u64) {
    for _ in 0..minutes {
        node.now = node.now + MINUTE;
        look(node, &[(id, FoundState::On)]);
    }
}
fn seconds(node: &Node, id: LeaseId) -> u64 {
    node.core.provider().meter_of(id).map_or(0, |meter| meter.time().as_secs())
}
fn receipt(node: &Node, id: LeaseId) -> Option<Sealed<Receipt>> {
    let row = node.core.provider().receipts().of(id)?;
    Some(row.receipt.clone().open(node.core.network()).unwrap())
}
fn power(node: &mut Node, id: LeaseId, act: u8, action: PowerAction) -> Response {
    node.ask(2, Request::Power { lease_id: id, act: ActId([act; 16]), action })
}

#[test]
fn a_vm_is_charged_for_from_when_it_first_runs_and_while_its_tenant_has_it() {
    let mut node = dear();
    grant(&mut node, 2, "100");
    let id = node.lease(2, 1);
    node.wait(MINUTE);
    assert_eq!(seconds(&node, id), 0, "it is being made");
    node.done(id, VmPhase::Running);
    runs_for(&mut node, id, 5);
    assert_eq!(seconds(&node, id), 300);
    power(&mut node, id, 1, PowerAction::Stop { force: false });
    node.now = node.now + MINUTE;
    node.done(id, VmPhase::Stopped);
    node.wait(MINUTE);
    look(&mut node, &[(id, FoundState::Off)]);
    assert_eq!(seconds(&node, id), 420, "its place is kept for it");
    power(&mut node, id, 2, PowerAction::Start);
    node.wait(MINUTE);
    assert_eq!(seconds(&node, id), 420, "it is being started");
    node.done(id, VmPhase::Running);
    runs_for(&mut node, id, 1);
    node.ask(2, Request::Release(id));
    assert_eq!(node.core.provider().meter_of(id), None);
    let last = receipt(&node, id).unwrap();
    assert_eq!((last.seconds(), last.total, last.last), (480, sum("0.48"), true));
    assert_eq!(node.core.provider().credit_left(&[key(2).peer_id()], &euro()), sum("99.52"));
}

#[test]
fn what_it_is_away_through_its_providers_fault_costs_nothing() {
    let mut node = dear();
    grant(&mut node, 2, "100");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    runs_for(&mut node, id, 2);
    // It dies unseen: what was not seen is not charged.
    node.now = node.now + Millis::secs(59);
    node.found(&[(id, FoundState::Broken)]);
    node.found(&[(id, FoundState::Broken)]);
    assert!(!matches!(node.row(id).vm, VmPhase::Running), "{:?}", node.row(id).vm);
    assert_eq!(seconds(&node, id), 120);
    node.wait(Millis::secs(600));
    assert_eq!(seconds(&node, id), 120);
}

#[test]
fn a_crash_costs_the_provider_a_sample_at_most_and_its_tenant_nothing() {
    let mut node = dear();
    grant(&mut node, 2, "100");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    runs_for(&mut node, id, 7);
    node.now = node.now + Millis::secs(50);
    let before = seconds(&node, id);
    node.now = node.now + Millis::secs(1800);
    node.restart();
    assert!(seconds(&node, id) <= before && seconds(&node, id) + SAMPLE.as_secs() >= before, "nobody saw it since");
    look(&mut node, &[(id, FoundState::On)]);
    runs_for(&mut node, id, 1);
    assert_eq!(seconds(&node, id), 480);
    assert_eq!(node.core.provider().credit_left(&[key(2).peer_id()], &euro()), sum("99.52"), "credit is on disk, too");
}

#[test]
fn nothing_is_charged_beyond_the_end() {
    let mut node = dear();
    grant(&mut node, 2, "100");
    let id = node.lease(2, 1);
    let started = node.now;
    node.done(id, VmPhase::Running);
    node.now = started + spec().duration + Millis::secs(1000);
    node.input(Input::Tick);
    let last = receipt(&node, id).unwrap();
    assert_eq!((last.seconds(), last.last), (3600, true));
}

#[test]
fn a_priced_offer_asks_for_credit_and_a_vm_stops_when_that_ends() {
    let mut node = dear();
    let refused = node.quote(2, 1).unwrap_err();
    let Refusal::NoCredit { needed, left, .. } = &refused else { panic!("{refused}") };
    assert_eq!((*needed, *left, refused.code()), (sum("3.6"), Sum::ZERO, ErrorCode::Quota));
    grant(&mut node, 2, "3.6");
    let quote = node.quote(2, 1).unwrap();
    let other = node.quote(2, 2).unwrap();
    let granted = node.accept(2, 1, &quote).unwrap();
    assert!(matches!(node.accept(2, 2, &other), Err(Refusal::NoCredit { .. })), "the credit is spoken for");
    node.confirm(2, &granted);
    let id = granted.lease_id;
    node.done(id, VmPhase::Running);
    let mut warned = 0;
    while node.row(id).vm == VmPhase::Running {
        node.now = node.now + MINUTE;
        let effects = look(&mut node, &[(id, FoundState::On)]);
        warned += effects.iter().filter(|e| matches!(e, Effect::Event(e) if e.message.contains("lasts for"))).count();
        if node.row(id).stage != LeaseStage::Active {
            break;
        }
    }
    assert_eq!(warned, 1, "once");
    assert_eq!(node.core.provider().credit_left(&[key(2).peer_id()], &euro()), Sum::ZERO);
}

#[test]
fn a_vm_without_credit_stops_costs_nothing_more_and_starts_again_when_there_is_some() {
    let mut node = dear();
    grant(&mut node, 2, "3.6");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let Response::Status(status) = node.ask(2, Request::Status(id)) else { panic!() };
    assert_eq!(status.credit_ends, None);
    // Another one of the same tenant uses up the credit of both.
    grant(&mut node, 2, "3.6");
    let second = node.lease(2, 2);
    node.done(second, VmPhase::Running);
    let both = [(id, FoundState::On), (second, FoundState::On)];
    let mut told = None;
    for _ in 0..58 {
        node.now = node.now + MINUTE;
        look(&mut node, &both);
        let Response::Status(status) = node.ask(2, Request::Status(id)) else { panic!() };
        told = told.or(status.credit_ends);
    }
    assert!(told.is_some_and(|at| at > START && at <= START + Millis::secs(3700)), "{told:?}");
    node.ask(2, Request::Release(second));
    // What is left is taken by a settlement that is larger than thought: the first stops.
    let mut node = dear();
    grant(&mut node, 2, "3.6");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let later = Millis::secs(3590);
    node.now = node.now + later;
    look(&mut node, &[(id, FoundState::On)]);
    assert_eq!(node.row(id).vm, VmPhase::Running);
    assert_eq!(renew(&mut node, id, 3600).unwrap_err().code(), ErrorCode::Quota, "no credit for more time");
    grant(&mut node, 2, "3.6");
    renew(&mut node, id, 7200).unwrap();
    for _ in 0..61 {
        node.now = node.now + MINUTE;
        look(&mut node, &[(id, FoundState::On)]);
    }
    assert_eq!((node.row(id).stage, node.row(id).vm), (LeaseStage::Active, VmPhase::Stopping));
    node.done(id, VmPhase::Stopped);
    let used = seconds(&node, id);
    assert!((7200..7200 + 120).contains(&used), "{used}");
    node.wait(Millis::secs(600));
    look(&mut node, &[(id, FoundState::Off)]);
    assert_eq!(seconds(&node, id), used, "nothing more");
    assert!(matches!(power(&mut node, id, 1, PowerAction::Start), Response::Refused(Refusal::NoCredit { .. })));
    grant(&mut node, 2, "5");
    assert!(matches!(power(&mut node, id, 2, PowerAction::Start), Response::Status(_)));
    node.done(id, VmPhase::Running);
    runs_for(&mut node, id, 1);
    assert_eq!(seconds(&node, id), used + 60);
}

pub(super) fn renew_quote(node: &mut Node, id: LeaseId, time: u64) -> Result<Sealed<RenewQuote>, Refusal> {
    match node.ask(2, Request::RenewQuote { lease_id: id, duration: Millis::secs(time) }) {
        Response::RenewQuote(quote) => Ok(quote.open(node.core.network()).unwrap()),
        Response::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}
fn renew_of(node: &Node, quote: &Sealed<RenewQuote>, nonce: u64) -> Request {
    let renew = Renew {
        network: quote.network.clone(),
        provider: quote.provider,
        requestor: quote.requestor,
        lease_id: quote.lease_id,
        quote_hash: quote.digest(),
        nonce,
        expires: node.now + MINUTE,
    };
    Request::Renew { quote: quote.signed().clone(), renew: Sealed::seal(renew, &key(2)).signed().clone() }
}
pub(super) fn renew(node: &mut Node, id: LeaseId, time: u64) -> Result<Timestamp, Refusal> {
    let quote = renew_quote(node, id, time)?;
    let request = renew_of(node, &quote, 1);
    match node.ask(2, request) {
        Response::Renewed { renewed, .. } => Ok(renewed.open::<Renewed>(node.core.network()).unwrap().ends_at),
        Response::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_renewal_is_taken_once_and_a_lost_answer_is_given_again() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let ends = node.row(id).ends_at;
    let quote = renew_quote(&mut node, id, 1800).unwrap();
    let rival = renew_quote(&mut node, id, 3600).unwrap();
    let request = renew_of(&node, &quote, 1);
    let first = node.ask(2, request.clone());
    assert!(matches!(first, Response::Renewed { .. }));
    assert_eq!(node.row(id).ends_at, ends + Millis::secs(1800));
    node.restart();
    node.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
    let Response::Renewed { renewed: again, .. } = node.ask(2, request) else { panic!("the same answer") };
    let Response::Renewed { renewed, .. } = first else { unreachable!() };
    assert_eq!((again, node.row(id).ends_at), (renewed, ends + Millis::secs(1800)), "and nothing is added");
    let stale = renew_of(&node, &rival, 2);
    assert_eq!(node.ask(2, stale), Response::Refused(Refusal::QuoteGone), "it was quoted for another end");
    let quote = renew_quote(&mut node, id, 60).unwrap();
    node.now = node.now + Millis::secs(30);
    let late = renew_of(&node, &quote, 3);
    assert_eq!(node.ask(2, late), Response::Refused(Refusal::QuoteGone), "its hold is over");
    assert_eq!(renew(&mut node, id, 86_400).unwrap_err(), Refusal::LeaseTooLong { longest: Millis::secs(86_400) });
    assert!(matches!(
        node.ask(3, Request::RenewQuote { lease_id: id, duration: MINUTE }),
        Response::Refused(Refusal::NotYours(_))
    ));
    let document = node.row(id).document(node.core.network());
    assert_eq!(document.verify().unwrap().ends_at(), Some(node.row(id).ends_at));
    node.wait(Millis::secs(5400));
    assert_eq!(node.row(id).stage, LeaseStage::Expired);
    assert!(matches!(renew(&mut node, id, 60), Err(Refusal::WrongState { .. })));
}

#[test]
fn another_price_holds_from_the_old_end_on() {
    let mut node = dear();
    grant(&mut node, 2, "1000");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    let price = Price { per_hour: "7.2".parse().unwrap(), currency: euro() };
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { price: price.clone(), prepaid: true, ..offer(3) }))));
    renew(&mut node, id, 3600).unwrap();
    runs_for(&mut node, id, 121);
    let last = receipt(&node, id).unwrap();
    let lines: Vec<(String, u64)> =
        last.lines.iter().map(|line| (line.price.per_hour.to_string(), line.seconds)).collect();
    assert_eq!(lines, [("3.6".to_owned(), 3600), ("7.2".to_owned(), 3600)]);
    assert_eq!(last.total, sum("10.8"));
    let yen = Price { currency: "JPY".parse().unwrap(), ..price };
    let id = node.lease(2, 2);
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { price: yen, ..offer(3) }))));
    assert!(matches!(renew(&mut node, id, 60), Err(Refusal::Unsuitable(_))), "one currency");
    for n in 1..=MAX_PRICES as u32 {
        let price = Price { per_hour: format!("{n}").parse().unwrap(), currency: euro() };
        node.input(Input::Offer(Offering::Vms(Box::new(Offer { price, ..offer(3) }))));
        assert_eq!(renew(&mut node, id, 60).is_ok(), n < MAX_PRICES as u32, "{n}");
    }
}

#[test]
fn receipts_come_by_the_hour_and_are_countersigned_by_their_tenant_alone() {
    let mut node = dear();
    grant(&mut node, 2, "1000");
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    renew(&mut node, id, 5 * 3600).unwrap();
    let mut numbers = vec![];
    for _ in 0..300 {
        runs_for(&mut node, id, 1);
        let number = receipt(&node, id).map_or(0, |receipt| receipt.number);
        if numbers.last() != Some(&number) {
            numbers.push(number);
        }
    }
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    let Response::Status(status) = node.ask(2, Request::Status(id)) else { panic!() };
    let told: Sealed<Receipt> = status.receipt.unwrap().open(node.core.network()).unwrap();
    assert_eq!((told.number, told.seconds(), told.total), (5, 18_000, sum("18")));
    let sign = |by: u8, requestor: u8, hash: Digest| {
        let countersign = Countersign {
            network: told.network.clone(),
            provider: told.provider,
            requestor: key(requestor).peer_id(),
            lease_id: id,
            receipt_hash: hash,
            signed_at: START,
        };
        Request::Countersign(Sealed::seal(countersign, &key(by)).signed().clone())
    };
    assert!(matches!(node.ask(3, sign(3, 3, told.digest())), Response::Refused(Refusal::NotYours(_))));
    assert!(matches!(node.ask(3, sign(2, 2, told.digest())), Response::Refused(Refusal::BadSignature(_))));
    assert_eq!(node.ask(2, sign(2, 2, Digest([7; 32]))), Response::Refused(Refusal::Conflict));
    assert_eq!(node.ask(2, sign(2, 2, told.digest())), Response::Countersigned);
    assert_eq!(node.ask(2, sign(2, 2, told.digest())), Response::Countersigned);
    let Response::Status(status) = node.ask(2, Request::Status(id)) else { panic!() };
    assert_eq!(status.receipt, None, "nothing is left to be said");
    node.restart();
    let document: ReceiptDocument = node.core.provider().receipts().of(id).unwrap().document(node.core.network());
    assert!(document.verify().unwrap().countersign.is_some());
}

#[test]
fn a_lease_that_ends_soon_is_warned_of_once_and_again_when_it_was_renewed() {
    let mut node = Node::provider(1);
    let id = node.lease(2, 1);
    let warnings = |effects: &[Effect]| {
        effects.iter().filter(|e| matches!(e, Effect::Event(event) if event.message.contains("expires in"))).count()
    };
    assert_eq!(node.core.next_deadline().unwrap().min(START + Millis::secs(3000)), node.core.next_deadline().unwrap());
    assert_eq!(warnings(&node.wait(Millis::secs(2999))), 0);
    assert_eq!(warnings(&node.wait(Millis::secs(1))), 1);
    assert_eq!(warnings(&node.wait(Millis::secs(300))), 0);
    renew(&mut node, id, 3600).unwrap();
    assert_eq!(warnings(&node.wait(Millis::secs(3000))), 0);
    assert_eq!(warnings(&node.wait(Millis::secs(300))), 1);
}

#[test]
fn a_clock_that_is_set_charges_nobody_for_time_that_did_not_go_by() {
    for day in [86_400_000_i64, -86_400_000] {
        let mut node = dear();
        grant(&mut node, 2, "1000");
        let id = node.lease(2, 1);
        node.done(id, VmPhase::Running);
        let price = Price { per_hour: "7.2".parse().unwrap(), currency: euro() };
        node.input(Input::Offer(Offering::Vms(Box::new(Offer { price, prepaid: true, ..offer(3) }))));
        renew(&mut node, id, 3600).unwrap();
        runs_for(&mut node, id, 30);
        node.now = Timestamp(node.now.0.saturating_add_signed(day));
        node.input(Input::ClockSet { by: day });
        runs_for(&mut node, id, 29);
        assert_eq!(seconds(&node, id), 59 * 60, "{day}");
        runs_for(&mut node, id, 62);
        let last = receipt(&node, id).unwrap();
        let lines: Vec<u64> = last.lines.iter().map(|line| line.seconds).collect();
        assert_eq!((lines, last.last), (vec![3600, 3600], true), "each price for its hour");
    }
}

#[test]
fn what_was_let_on_trust_runs_on_when_others_must_pay_beforehand() {
    let mut node = dear();
    let price = Price { per_hour: "3.6".parse().unwrap(), currency: euro() };
    let offers = |prepaid| Input::Offer(Offering::Vms(Box::new(Offer { price: price.clone(), prepaid, ..offer(3) })));
    node.input(offers(false));
    let id = node.lease(2, 1);
    node.done(id, VmPhase::Running);
    node.input(offers(true));
    runs_for(&mut node, id, 30);
    assert_eq!(node.row(id).vm, VmPhase::Running, "its provider's word");
    assert_eq!(renew(&mut node, id, 3600).unwrap_err().code(), ErrorCode::Quota, "more time is another matter");
    assert!(matches!(node.quote(2, 2), Err(Refusal::NoCredit { .. })));
    grant(&mut node, 2, "10");
    renew(&mut node, id, 4 * 3600).unwrap();
    runs_for(&mut node, id, 150);
    assert_eq!((node.row(id).vm, seconds(&node, id)), (VmPhase::Stopping, 167 * 60), "{:?}", node.row(id).fault);
}

#[test]
fn a_host_that_is_busy_for_a_moment_asks_for_credit_all_the_same() {
    let mut node = dear();
    grant(&mut node, 2, "3.6");
    let (first, second) = (node.quote(2, 1).unwrap(), node.quote(2, 2).unwrap());
    node.input(Input::Offer(Offering::Nothing { reason: "it is busy".into() }));
    node.accept(2, 1, &first).unwrap();
    assert!(matches!(node.accept(2, 2, &second), Err(Refusal::NoCredit { .. })));
}
