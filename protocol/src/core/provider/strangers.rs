//! What those are let who pay nothing and whom the operator does not know: little at a time, and little to each site, so
//! that a free offer is there for many. Ids cost nothing; addresses do.
use super::{Offer, Provider};
use crate::core::Ctx;
use crate::identity::PeerId;
use crate::ledger::LeaseRow;
use crate::refusal::Refusal;
use crate::shard::Site;
use crate::units::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strangers {
    /// How long a lease of theirs runs at most, from now.
    pub longest: Millis,
    /// VMs that those of one site have at once.
    pub per_site: u32,
}

impl Default for Strangers {
    fn default() -> Self {
        Strangers { longest: Millis::secs(3600), per_site: 4 }
    }
}

impl Provider {
    /// The site of a stranger who pays nothing. Who has a tier, is in `allow`, or comes from this host or a network of
    /// its own is none.
    pub(super) fn stranger_from(&self, ctx: &Ctx, offer: &Offer, from: PeerId, site: Option<Site>) -> Option<Site> {
        let predecessors = ctx.revoked.predecessors(from);
        let is_known = offer.policy.names(from, &predecessors) || self.quotas.of(from, &predecessors).is_some();
        site.filter(|_| offer.price.per_hour.is_zero() && !is_known)
    }

    /// For how long it is let at most, to a stranger from there or to somebody else.
    pub(super) fn longest(offer: &Offer, stranger_from: Option<Site>) -> Millis {
        stranger_from.map_or(offer.max_lease, |_| offer.strangers.longest.min(offer.max_lease))
    }

    pub(super) fn admit_stranger(&self, ctx: &Ctx, offer: &Offer, site: Site) -> Result<(), Refusal> {
        let beside = |row: &LeaseRow| row.counts() && row.stranger_from == Some(site);
        let most = offer.strangers.per_site;
        if self.ledger.leases().filter(|row| beside(row)).count() < most as usize {
            return Ok(());
        }
        let retry_after_s = Some(self.ledger.again_after(ctx.now, beside));
        Err(Refusal::StrangersFull { most, retry_after_s })
    }
}
