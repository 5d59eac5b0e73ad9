//! What providers say that our VMs have cost: looked at, countersigned and kept, or said aloud when it does not fit.
use super::{Deal, Requestor};
use crate::advert::MAX_SKEW;
use crate::core::receipts::Receipts;
use crate::core::{Ctx, EventKind, Severity};
use crate::envelope::Sealed;
use crate::identity::PeerId;
use crate::lease::Quote;
use crate::message::{LeaseStatus, Request};
use crate::money::Price;
use crate::names::{Digest, LeaseId, Network};
use crate::receipt::{Countersign, Receipt, ReceiptRow};
use crate::renewal::RenewQuote;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Bills {
    kept: Receipts,
    /// The last one of a lease that did not fit: said once. At most as many as there are leases to ask about.
    disputed: BTreeMap<LeaseId, u32>,
}

/// What a receipt is held against: all that was agreed, and since when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Terms {
    provider: PeerId,
    lease_id: LeaseId,
    grant: Digest,
    prices: Vec<Price>,
    granted: Timestamp,
}

impl Terms {
    /// None of what was never granted.
    pub(super) fn of(deal: &Deal, network: &Network) -> Option<Self> {
        let first = deal.quote.clone().open::<Quote>(network).ok().map(|quote| quote.price.clone());
        let renewal = deal.renewal.as_ref().and_then(|renewal| renewal.quote.clone().open::<RenewQuote>(network).ok());
        Some(Terms {
            provider: deal.provider,
            lease_id: deal.lease_id,
            grant: deal.grant.as_ref()?.digest(),
            prices: first.into_iter().chain(renewal.map(|quote| quote.price.clone())).collect(),
            granted: deal.granted,
        })
    }
}

impl Requestor {
    pub fn restore_receipt(&mut self, row: ReceiptRow) {
        self.bills.kept.restore(row);
    }
    pub fn receipts(&self) -> &Receipts {
        &self.bills.kept
    }

    /// Before what else the status says is acted on: afterwards the lease may be forgotten.
    pub(super) fn take_receipt(&mut self, ctx: &mut Ctx, status: &LeaseStatus) {
        let Some(signed) = status.receipt.clone() else { return };
        let lease_id = status.lease_id;
        let Some(terms) = self.terms_of(ctx, lease_id) else { return };
        let before = self.bills.kept.of(lease_id);
        if before.is_some_and(|row| row.receipt == signed) {
            // Our word was lost on its way.
            let countersign = before.and_then(|row| row.countersign.clone());
            countersign.map(|signed| ctx.send(terms.provider, Request::Countersign(signed)));
            return;
        }
        let before = before.and_then(|row| row.receipt.clone().open::<Receipt>(ctx.network).ok());
        let receipt = match signed.open::<Receipt>(ctx.network) {
            Ok(receipt) => receipt,
            Err(error) => return self.dispute(ctx, lease_id, 0, &error.to_string()),
        };
        if let Err(why) = agrees(ctx, &terms, &receipt, before.as_deref()) {
            let number = receipt.number;
            return self.dispute(ctx, lease_id, number, why);
        }
        let countersign = Countersign {
            network: ctx.network.clone(),
            provider: receipt.provider,
            requestor: ctx.me(),
            lease_id,
            receipt_hash: receipt.digest(),
            signed_at: ctx.now,
        };
        let countersign = Sealed::seal(countersign, ctx.key).signed().clone();
        let (issued, provider) = (receipt.issued, terms.provider);
        let receipt = receipt.signed().clone();
        let row = ReceiptRow { lease_id, issued, receipt, countersign: Some(countersign.clone()) };
        let ops = self.bills.kept.put(row);
        ctx.persist(ops);
        ctx.send(provider, Request::Countersign(countersign));
    }

    fn terms_of(&self, ctx: &Ctx, lease_id: LeaseId) -> Option<Terms> {
        let deal = self.deals().find(|deal| deal.lease_id == lease_id);
        let released = || self.releases.get(&lease_id)?.terms.clone();
        deal.and_then(|deal| Terms::of(deal, ctx.network)).or_else(released)
    }
    fn deals(&self) -> impl Iterator<Item = &Deal> {
        self.rentals.values().filter_map(|rental| rental.deal.as_ref())
    }

    fn dispute(&mut self, ctx: &mut Ctx, lease_id: LeaseId, number: u32, why: &str) {
        let known: BTreeSet<LeaseId> =
            self.deals().map(|deal| deal.lease_id).chain(self.releases.keys().copied()).collect();
        self.bills.disputed.retain(|id, _| known.contains(id));
        if self.bills.disputed.insert(lease_id, number) == Some(number) {
            return;
        }
        let message = format!("receipt {number} of lease {lease_id} is not countersigned: {why}");
        ctx.event(EventKind::Market, Severity::Warning, message, None);
    }
}

/// Whether it may be what was used of what was agreed: no other price, no more time than has gone by since the grant.
fn agrees(ctx: &Ctx, terms: &Terms, receipt: &Sealed<Receipt>, before: Option<&Receipt>) -> Result<(), &'static str> {
    let parties = (receipt.provider, receipt.requestor, receipt.lease_id);
    if parties != (terms.provider, ctx.me(), terms.lease_id) {
        return Err("it is of another lease");
    }
    if terms.grant != receipt.grant_hash {
        return Err("it is of another grant");
    }
    if before.is_some_and(|before| !receipt.follows(before)) {
        return Err("it takes back what an earlier one said");
    }
    if receipt.lines.iter().any(|line| !terms.prices.contains(&line.price) && !was_agreed(before, &line.price)) {
        return Err("it names a price that was not agreed");
    }
    if receipt.seconds() > (ctx.now + MAX_SKEW - terms.granted).as_secs() {
        return Err("it names more time than has gone by");
    }
    Ok(())
}

fn was_agreed(before: Option<&Receipt>, price: &Price) -> bool {
    before.is_some_and(|before| before.lines.iter().any(|line| line.price == *price))
}
