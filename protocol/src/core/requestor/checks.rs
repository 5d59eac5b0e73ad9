//! Is an answer what was agreed? And when there is none: why.
use super::{Rental, Work};
use crate::advert::MAX_SKEW;
use crate::board::Board;
use crate::core::revoked::Heir;
use crate::core::{Ctx, RpcFailure};
use crate::envelope::{Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::lease::{Active, Grant, Quote};
use crate::message::{Request, Response};
use crate::money::Amount;
use crate::names::IsolationWanted;
use crate::refusal::Refusal;
use crate::spec::Query;

/// What became of a question that was not answered as it should be.
pub(super) fn refused(result: Result<Response, RpcFailure>) -> Fault {
    match result {
        Ok(Response::Refused(refusal)) => Fault::from(refusal).from_peer(),
        Ok(_) => Fault::new(ErrorCode::InvalidRequest, "the provider answered something else than was asked"),
        Err(RpcFailure::Timeout) => Fault::new(ErrorCode::Timeout, "the provider did not answer"),
        Err(RpcFailure::Unreachable(why)) => {
            // The mesh may quote what it met on the way.
            Fault::new(ErrorCode::Unreachable, format!("the provider cannot be reached: {why}")).from_peer()
        }
    }
}

/// Why nobody is left to turn to.
pub(super) fn nobody(ctx: &Ctx, board: &Board, rental: &Rental, work: &Work) -> Fault {
    let now = ctx.now;
    if let Some((peer, (_, fault))) = work.shaky.iter().next() {
        return Fault { message: format!("provider {}: {}", peer.short(), fault.message), ..fault.clone() };
    }
    if let Some((_, last)) = rental.tried.last() {
        let all: Vec<String> =
            rental.tried.iter().map(|(peer, fault)| format!("{}: {}", peer.short(), fault.message)).collect();
        let mut fault = last.clone();
        fault.message = format!("no provider gave '{}': {}", rental.name, last.message);
        // What the last one added (its guest's console) is not at hand anywhere else.
        let all = all.join("; ");
        return fault.details(last.details.iter().fold(all, |all, details| all + "\n" + details));
    }
    let any = Query { isolation: IsolationWanted::Any, ..Query::default() };
    let all = board.query(now, &any).filter(|entry| entry.advert.provider != ctx.me()).count();
    if rental.provider == Some(ctx.me()) {
        return Fault::new(ErrorCode::Unavailable, "a node does not rent from itself")
            .hint("rent from another home on this machine: 'golemnode --home DIR vm create …'");
    }
    if let Some(wanted) = rental.provider.filter(|wanted| ctx.revoked.contains(*wanted)) {
        let fault = Fault::new(ErrorCode::BadToken, format!("the key of provider {} has been revoked", wanted.short()));
        return match ctx.revoked.heir_of(wanted) {
            Heir::One(heir) => fault.hint(format!("{heir} goes on for it: '--provider {heir}'")),
            _ => fault.hint("ask its owner for the new one; 'golemnode provider list' shows others"),
        };
    }
    if let Some(wanted) = rental.provider.filter(|wanted| board.get(now, *wanted).is_none()) {
        return Fault::new(ErrorCode::Unavailable, format!("provider {} is not on the board", wanted.short()))
            .hint("'golemnode provider list' shows who is");
    }
    let fault = Fault::new(
        ErrorCode::Unavailable,
        format!("no provider offers {} with image '{}'", rental.spec.resources, rental.spec.image),
    );
    if all == 0 {
        fault.hint(
            "the board is empty: join a mesh with --bootstrap, or start a provider with 'golemnode node run --provide'",
        )
    } else {
        fault.hint(format!("{all} offer something else: see 'golemnode provider list --isolation any'"))
    }
}

pub(super) fn check_quote(
    ctx: &Ctx,
    board: &Board,
    rental: &Rental,
    peer: PeerId,
    signed: Signed,
) -> Result<Sealed<Quote>, Fault> {
    let quote: Sealed<Quote> = signed.open(ctx.network).map_err(Refusal::from)?;
    let wrong = |what: &str| Err(Fault::new(ErrorCode::BadToken, format!("the quote is {what}")));
    if ctx.revoked.contains(peer) {
        return wrong("of a key that has been revoked");
    }
    if quote.provider != peer || quote.requestor != ctx.me() {
        return wrong("between others");
    }
    if !quote.spec.answers(&rental.spec) {
        return wrong("for something else than was asked");
    }
    if !rental.spec.isolation.takes(quote.isolation) {
        return wrong("for a guest less isolated than was asked");
    }
    if rental.spec.backend.as_ref().is_some_and(|backend| *backend != quote.backend) {
        return wrong("for a guest of another backend than was asked");
    }
    // A limit is an amount without a currency: it is in that of the adverts among which the user chose.
    let shown = board.get(ctx.now, peer).map(|entry| &entry.advert.terms.price);
    if shown.is_some_and(|shown| shown.currency != quote.price.currency) {
        return wrong("in another currency than its advert");
    }
    if !within(quote.price.per_hour, rental.query.max_price) {
        let price = quote.price.clone();
        return Err(Fault::new(ErrorCode::Exhausted, format!("it now asks {price}, above the limit")));
    }
    Ok(quote)
}

pub(super) fn check_grant(ctx: &Ctx, rental: &Rental, signed: Signed) -> Result<Sealed<Grant>, Fault> {
    let grant: Sealed<Grant> = signed.open(ctx.network).map_err(Refusal::from)?;
    if ctx.revoked.contains(grant.provider) {
        return Err(Fault::new(ErrorCode::BadToken, "the grant is of a key that has been revoked"));
    }
    let fits = rental.deal.as_ref().is_some_and(|deal| {
        grant.provider == deal.provider
            && grant.requestor == ctx.me()
            && grant.lease_id == deal.lease_id
            && grant.accept_hash == deal.accept.digest()
    });
    if fits { Ok(grant) } else { Err(Fault::new(ErrorCode::BadToken, "the grant is of another accept")) }
}

/// The time is that of the quote, from when the provider started: between our confirm and now, as far as clocks agree.
pub(super) fn check_active(ctx: &Ctx, rental: &Rental, signed: Signed) -> Result<Sealed<Active>, Fault> {
    let active: Sealed<Active> = signed.open(ctx.network).map_err(Refusal::from)?;
    let wrong = |what: &str| Err(Fault::new(ErrorCode::BadToken, format!("the start is {what}")));
    let Some(deal) = rental.deal.as_ref() else { return wrong("of no deal") };
    let parties = active.provider == deal.provider && active.requestor == ctx.me() && active.lease_id == deal.lease_id;
    if !parties || deal.grant.as_ref().is_none_or(|grant| active.grant_hash != grant.digest()) {
        return wrong("of another grant");
    }
    if !active.is_for(rental.lasts()) {
        return wrong("for another time than was agreed");
    }
    if active.started_at < deal.granted.set_back(MAX_SKEW) || active.started_at > ctx.now + MAX_SKEW {
        return wrong("of another time than now");
    }
    Ok(active)
}

/// A quote that came when its create had gone on: what it holds for us goes back at once.
pub(super) fn late_quote(ctx: &mut Ctx, peer: PeerId, result: Result<Response, RpcFailure>) {
    let Ok(Response::Quote(signed)) = result else { return };
    if let Ok(quote) = signed.open::<Quote>(ctx.network)
        && quote.provider == peer
    {
        ctx.send(peer, Request::Decline(quote.quote_id));
    }
}

/// What is asked under a budget of money.
pub(super) fn within(price: Amount, most: Option<Amount>) -> bool {
    most.is_none_or(|most| price <= most)
}
