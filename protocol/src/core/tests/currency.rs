//! A provider that asks for another currency than was agreed, or than it advertises.
use super::renting::{answer, ask_for, create, quote_of, rent, requestor};
use super::*;
use crate::renewal::RenewQuote;

fn yen() -> Price {
    Price { per_hour: "0.02".parse().unwrap(), currency: "JPY".parse().unwrap() }
}

#[test]
fn a_quote_is_in_the_currency_of_its_advert() {
    let mut node = requestor(&[1]);
    let asked = sent(&ask_for(&mut node, 1, create(1, "web")));
    let quote = Quote { price: yen(), ..(*quote_of(1, 1, node.now)).clone() };
    let effects = answer(&mut node, asked[0].0, Response::Quote(Sealed::seal(quote, &key(1)).signed().clone()));
    let said = effects.iter().find_map(|effect| match effect {
        Effect::Notice { message, .. } => Some(message.as_str()),
        _ => None,
    });
    assert!(said.is_some_and(|said| said.contains("AUTH_001: the quote is in another currency")), "{said:?}");
    assert!(!sent(&effects).iter().any(|(.., request)| matches!(request, Request::Accept(_))));
}

#[test]
fn more_time_is_paid_in_the_currency_of_the_lease() {
    for (price, taken) in [(offer(1).price, true), (yen(), false)] {
        let mut node = requestor(&[1]);
        let (lease_id, _) = rent(&mut node);
        let duration = Millis::secs(3600);
        let id = CreateId([1; 16]);
        let asked = node.input(Input::Renew { ticket: 5, create_id: id, duration, most: None });
        let [(rpc, _, Request::RenewQuote { .. })] = &sent(&asked)[..] else { panic!("a question: {asked:?}") };
        let deal = node.core.requestor().rental(id).unwrap().deal.clone().unwrap();
        let quote = RenewQuote {
            network: "main".parse().unwrap(),
            provider: key(1).peer_id(),
            requestor: key(100).peer_id(),
            lease_id,
            grant_hash: deal.grant.unwrap().digest(),
            from: deal.ends_at,
            until: deal.ends_at + duration,
            price,
            hold_until: node.now + Millis::secs(30),
        };
        let effects = answer(&mut node, *rpc, Response::RenewQuote(Sealed::seal(quote, &key(1)).signed().clone()));
        let agreed = sent(&effects).iter().any(|(.., request)| matches!(request, Request::Renew { .. }));
        let refused = effects.iter().any(|effect| {
            matches!(effect, Effect::Answer { ticket: 5, result: Err(fault) } if fault.code == ErrorCode::BadToken)
        });
        assert_eq!((agreed, refused), (taken, !taken));
    }
}
