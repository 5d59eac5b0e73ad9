//! What this node remembers of past creates, and what it expects of the next.
use super::{Phase, Rental, Requestor, unreadable};
use crate::board::Entry;
use crate::codec::{self, MAX_STORED};
use crate::core::revoked::Revoked;
use crate::core::{StoreOp, Table};
use crate::error::Fault;
use crate::history::{Estimate, History, Prospect, Sample};
use crate::identity::PeerId;
use crate::lease::ACCEPT_LIFE;
use crate::names::{CreateId, ImageName, Network};
use crate::units::Millis;

impl Requestor {
    pub fn restore_history(&mut self, value: &[u8]) -> Result<(), Fault> {
        self.history.restore(codec::decode(value, MAX_STORED).map_err(unreadable)?);
        Ok(())
    }

    /// Whether it was ever asked for something, or has a VM of ours.
    pub fn has_dealt_with(&self, peer: PeerId) -> bool {
        self.experience.contains_key(&peer) || self.leased_peers().any(|leased| leased == peer)
    }

    /// A VM runs for the first time: how long that took, for the disk.
    pub(super) fn note_time(&mut self, network: &Network, id: CreateId) -> Vec<StoreOp> {
        // One that was left alone for a restart may have run long before we saw it.
        let watched = self.rentals.get(&id).filter(|_| !self.unattended.contains(&id));
        let Some(sample) = watched.and_then(|rental| sample(rental, network)) else { return Vec::new() };
        let put = StoreOp::put(Table::History, &id.0, &sample);
        let forgotten = self.history.note(sample).map(|old| StoreOp::delete(Table::History, &old.create_id.0));
        forgotten.into_iter().chain([put]).collect()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// How long a VM of this offer will probably take; none without any past.
    pub fn estimate_of(&self, entry: &Entry, image: Option<&ImageName>, revoked: &Revoked) -> Option<Estimate> {
        let (terms, provider) = (&entry.advert.terms, entry.advert.provider);
        let formerly = &revoked.predecessors(provider);
        let (backend, isolation) = (&terms.backend, terms.isolation);
        self.history.estimate(Prospect { provider, formerly, image, backend, isolation })
    }

    /// The same, of a VM that is being made, once its provider is chosen.
    pub fn estimate_for(&self, rental: &Rental, network: &Network, revoked: &Revoked) -> Option<Estimate> {
        if rental.ran || !matches!(rental.phase, Phase::Accepting | Phase::Confirming | Phase::Leased) {
            return None;
        }
        let terms = rental.terms(network)?;
        let (provider, image) = (terms.provider, Some(&terms.spec.image));
        let formerly = &revoked.predecessors(provider);
        let (backend, isolation) = (&terms.backend, terms.isolation);
        self.history.estimate(Prospect { provider, formerly, image, backend, isolation })
    }
}

fn sample(rental: &Rental, network: &Network) -> Option<Sample> {
    let (terms, deal, marks) = (rental.terms(network)?, rental.deal.as_ref()?, &rental.marks);
    // Time spent on a provider that failed meanwhile is no other provider's.
    let chosen_after = marks.quoted - rental.created;
    let made_after = marks.running + ACCEPT_LIFE - deal.accept_expires;
    Some(Sample {
        create_id: rental.create_id,
        made: marks.running,
        provider: terms.provider,
        image: terms.spec.image.clone(),
        backend: terms.backend.clone(),
        isolation: terms.isolation,
        took: Millis(chosen_after.0.saturating_add(made_after.0)),
    })
}
