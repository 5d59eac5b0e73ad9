//! The lease as it is shown and given to others: JSON that anybody may have written.
use crate::{Bytes, json_again, must_be_plain, world};
use protocol::codec::{self, MAX_QUOTED};
use protocol::envelope::{Payload, Sealed};
use protocol::lease::{Accept, Active, Confirm, Grant, LeaseDocument, LeaseStanding, Quote, SignedText, VerifiedLease};
use protocol::names::LeaseId;

/// The first byte of an input whose rest is five bodies, signed here, instead of JSON.
pub const CHAIN: u8 = 0xff;

pub fn lease_document(data: &[u8]) {
    let document = match data.split_first() {
        Some((&CHAIN, rest)) => chain(&mut Bytes::new(rest)),
        _ => serde_json::from_slice(data).ok(),
    };
    let Some(document) = document else { return };
    json_again(&document);
    match document.verify() {
        Ok(lease) => holds(&document, &lease),
        Err(fault) => must_be_plain(&fault.message, MAX_QUOTED + 160),
    }
}

/// What `verify` promises, looked at once more from its result.
fn holds(document: &LeaseDocument, lease: &VerifiedLease) {
    let parties = (lease.quote.provider, lease.quote.requestor);
    assert_eq!(parties, (lease.accept.provider, lease.accept.requestor));
    assert_eq!(parties, (lease.grant.provider, lease.grant.requestor));
    assert_eq!(lease.accept.quote_hash, lease.quote.digest());
    assert_eq!(lease.grant.accept_hash, lease.accept.digest());
    assert_eq!(lease.lease_id(), LeaseId::derive(parties.0, parties.1, lease.accept.create_id));
    assert_eq!(lease.standing == LeaseStanding::Active, document.confirm.is_some());
    assert!(lease.active.is_none() || lease.confirm.is_some());
    if let Some(confirm) = &lease.confirm {
        assert_eq!(
            (confirm.provider, confirm.requestor, confirm.grant_hash),
            (parties.0, parties.1, lease.grant.digest())
        );
    }
    if let Some(active) = &lease.active {
        assert_eq!(active.grant_hash, lease.grant.digest());
        assert!(active.is_for(lease.quote.spec.duration));
        assert_eq!(lease.ends_at(), Some(active.ends_at));
    }
    node::clock::rfc3339(lease.quote.issued);
    lease.quote.price.per_hour.over(lease.quote.spec.duration);
    must_be_plain(&format!("{} {} {}", lease.quote.spec.resources, lease.quote.spec.duration, lease.quote.price), 400);
}

/// Five bodies, each signed by who should have. A bit for each link: set, the link is made whole before it is signed.
fn chain(input: &mut Bytes) -> Option<LeaseDocument> {
    let whole = input.u8();
    let mends = |bit: u8| whole >> bit & 1 == 1;
    let mut quote: Quote = part(input)?;
    let (provider, requestor) = (world::key(1), world::key(2));
    (quote.provider, quote.requestor, quote.network) = (provider.peer_id(), requestor.peer_id(), world::network());
    let quote = Sealed::seal(quote, &provider);
    let mut accept: Accept = part(input)?;
    (accept.provider, accept.requestor, accept.network) = (quote.provider, quote.requestor, world::network());
    if mends(0) {
        accept.quote_hash = quote.digest();
    }
    let accept = Sealed::seal(accept, &requestor);
    let mut grant: Grant = part(input)?;
    (grant.provider, grant.requestor, grant.network) = (quote.provider, quote.requestor, world::network());
    if mends(1) {
        grant.accept_hash = accept.digest();
        grant.lease_id = LeaseId::derive(quote.provider, quote.requestor, accept.create_id);
    }
    let grant = Sealed::seal(grant, &provider);
    let confirm = part::<Confirm>(input).map(|mut confirm| {
        (confirm.provider, confirm.requestor, confirm.network) = (quote.provider, quote.requestor, world::network());
        if mends(2) {
            (confirm.grant_hash, confirm.lease_id) = (grant.digest(), grant.lease_id);
        }
        Sealed::seal(confirm, &requestor)
    });
    let active = part::<Active>(input).map(|mut active| {
        (active.provider, active.requestor, active.network) = (quote.provider, quote.requestor, world::network());
        if mends(3) {
            (active.grant_hash, active.lease_id) = (grant.digest(), grant.lease_id);
        }
        if mends(4) {
            active.ends_at = active.started_at + quote.spec.duration;
        }
        Sealed::seal(active, &provider)
    });
    Some(LeaseDocument {
        version: LeaseDocument::VERSION,
        network: world::network(),
        quote: text(&quote),
        accept: text(&accept),
        grant: text(&grant),
        confirm: confirm.as_ref().map(text),
        active: active.as_ref().map(text),
        renewal: None,
    })
}

fn part<T: Payload>(input: &mut Bytes) -> Option<T> {
    codec::decode(input.chunk(), T::LIMIT).ok()
}

fn text<T: Payload>(sealed: &Sealed<T>) -> SignedText {
    sealed.signed().into()
}
