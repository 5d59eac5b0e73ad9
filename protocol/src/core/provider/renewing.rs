//! More time for a lease, and the warning before it ends.
use super::metering::keys_of;
use super::negotiate::parties;
use super::{Offering, Provider, put};
use crate::core::{Ctx, EventKind, Severity};
use crate::envelope::{Sealed, Signed};
use crate::identity::PeerId;
use crate::lease::QUOTE_HOLD;
use crate::ledger::{LeaseRow, expiry_warning};
use crate::message::{LeaseStage, Response};
use crate::names::LeaseId;
use crate::refusal::Refusal;
use crate::renewal::{Renew, RenewQuote, Renewal, Renewed};
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Warnings {
    /// Leases of which it was said that they end soon, and when.
    given: BTreeMap<LeaseId, Timestamp>,
    /// The next, and how often the ledger had changed when it was looked for.
    next: Option<(u64, Option<Timestamp>)>,
}

impl Provider {
    /// Keeps nothing: what was offered comes back, signed, with its acceptance.
    pub(super) fn renew_quote(
        &self,
        ctx: &mut Ctx,
        from: PeerId,
        lease_id: LeaseId,
        time: Millis,
    ) -> Result<Response, Refusal> {
        let row = active(self.ledger.owned(from, lease_id)?)?;
        let Offering::Vms(offer) = &self.offering else { return Err(Refusal::NotProviding) };
        let keys = keys_of(ctx, from);
        if self.draining {
            return Err(Refusal::NotProviding);
        }
        if !offer.policy.serves(from, &keys[1..]) {
            return Err(Refusal::Denied);
        }
        let until = row.ends_at.0.checked_add(time.0).map(Timestamp);
        let longest = Self::longest(offer, self.stranger_from(ctx, offer, from, row.stranger_from));
        let until = until.filter(|until| time > Millis(0) && *until - ctx.now <= longest);
        let until = until.ok_or(Refusal::LeaseTooLong { longest })?;
        let other_currency = row.price.as_ref().is_some_and(|price| price.currency != offer.price.currency);
        if other_currency {
            let why = format!("it asks for {} now; a lease is paid in one currency", offer.price.currency);
            return Err(Refusal::Unsuitable(why));
        }
        // What it rents already counts with it.
        self.affords(&keys, &offer.price, Millis(0))?;
        let quote = RenewQuote {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: from,
            lease_id,
            grant_hash: row.grant.digest(),
            from: row.ends_at,
            until,
            price: offer.price.clone(),
            hold_until: ctx.now + QUOTE_HOLD,
        };
        Ok(Response::RenewQuote(Sealed::seal(quote, ctx.key).signed().clone()))
    }

    pub(super) fn renew(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        quote: Signed,
        renew: Signed,
    ) -> Result<Response, Refusal> {
        let quote: Sealed<RenewQuote> = quote.open(ctx.network)?;
        let renew: Sealed<Renew> = renew.open(ctx.network)?;
        parties(ctx, from, renew.requestor, renew.provider)?;
        parties(ctx, from, quote.requestor, quote.provider)?;
        let row = self.ledger.owned(from, renew.lease_id)?;
        if let Some(done) = row.renewal.as_ref().filter(|done| done.renew == *renew.signed()) {
            let (renewed, status) = (done.renewed.clone(), row.status());
            return Ok(Response::Renewed { renewed, status });
        }
        let fits = quote.lease_id == row.lease_id && quote.grant_hash == row.grant.digest();
        if !fits || renew.quote_hash != quote.digest() {
            return Err(Refusal::Conflict);
        }
        active(row)?;
        if quote.hold_until <= ctx.now || quote.from != row.ends_at {
            return Err(Refusal::QuoteGone);
        }
        let metered = self.agree_price(row.lease_id, quote.from, quote.price.clone())?;
        let renewed = Renewed {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: from,
            lease_id: renew.lease_id,
            renew_hash: renew.digest(),
            ends_at: quote.until,
        };
        let renewed = Sealed::seal(renewed, ctx.key).signed().clone();
        let prepaid = self.prepaid;
        let row = self.ledger.owned_mut(from, renew.lease_id)?;
        row.ends_at = quote.until;
        row.prepaid = prepaid;
        row.price = Some(quote.price.clone());
        row.unused_until = None;
        row.renewal =
            Some(Renewal { quote: quote.signed().clone(), renew: renew.signed().clone(), renewed: renewed.clone() });
        row.touch();
        let (mut ops, status) = (vec![put(row)], row.status());
        ops.extend(metered);
        ctx.persist(ops);
        let message = format!("lease {} is renewed for {}", renew.lease_id, quote.until - quote.from);
        ctx.event(EventKind::Market, Severity::Info, message, Some(from.to_string()));
        Ok(Response::Renewed { renewed, status })
    }

    /// Says once of each lease that it ends soon.
    pub(super) fn warn_of_ends(&mut self, ctx: &mut Ctx) {
        let next = self.next_warning();
        self.warnings.next = Some((self.ledger.changes(), next));
        if next.is_none_or(|at| at > ctx.now) {
            return;
        }
        let (now, warnings) = (ctx.now, &mut self.warnings);
        for row in self.ledger.leases().filter(|row| expiry_warning(row).is_some_and(|at| at <= now)) {
            let (id, ends_at, requestor) = (row.lease_id, row.ends_at, row.requestor);
            if warnings.given.insert(id, ends_at) == Some(ends_at) {
                continue;
            }
            let message = format!("lease {id} expires in {}", ends_at - now);
            ctx.event(EventKind::Market, Severity::Warning, message, Some(requestor.to_string()));
        }
        let ledger = &self.ledger;
        warnings.given.retain(|id, _| ledger.lease(*id).is_some_and(|row| row.stage == LeaseStage::Active));
        warnings.next = None;
    }

    pub(super) fn next_warning(&self) -> Option<Timestamp> {
        if let Some((_, next)) = self.warnings.next.filter(|(changes, _)| *changes == self.ledger.changes()) {
            return next;
        }
        let ends = self.ledger.leases().filter_map(|row| Some((expiry_warning(row)?, row)));
        let unwarned = ends.filter(|(_, row)| self.warnings.given.get(&row.lease_id) != Some(&row.ends_at));
        unwarned.map(|(at, _)| at).min()
    }
}

fn active(row: &LeaseRow) -> Result<&LeaseRow, Refusal> {
    match row.stage {
        LeaseStage::Active => Ok(row),
        LeaseStage::Expired => Err(Refusal::WrongState { is: "expired".into(), wanted: "leased".into() }),
        _ => Err(Refusal::WrongState { is: row.vm.word().to_owned(), wanted: "leased".into() }),
    }
}
