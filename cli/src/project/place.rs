//! At which provider a VM is made: the cheapest that has room for it, or, spread, the one that has the fewest of them.
use super::wanted::Wanted;
use node::api::types::ProviderView;
use protocol::PeerId;
use std::collections::{BTreeMap, BTreeSet};

/// The board, as it is used up.
pub struct Offers {
    views: Vec<ProviderView>,
    /// How many of each entry are at each.
    at: BTreeMap<(usize, PeerId), u32>,
    /// Who has refused, for the rest of this run.
    refused: BTreeSet<(usize, PeerId)>,
}

impl Offers {
    pub fn new(views: Vec<ProviderView>) -> Self {
        Offers { views, at: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// One that is there already.
    pub fn count(&mut self, entry: usize, peer: PeerId) {
        *self.at.entry((entry, peer)).or_default() += 1;
    }

    /// Takes the room for one; none where nobody has it.
    pub fn place(&mut self, wanted: &Wanted) -> Option<ProviderView> {
        let fits = |view: &&ProviderView| does(wanted, view) && !self.refused.contains(&(wanted.entry, view.peer_id));
        let crowd = |view: &ProviderView| match wanted.spread {
            true => self.at.get(&(wanted.entry, view.peer_id)).copied().unwrap_or(0),
            false => 0,
        };
        let by = |a: &&ProviderView, b: &&ProviderView| {
            let price = || a.price_per_hour.cmp(&b.price_per_hour);
            // Of two alike the better; of two as good always the same, so that a plan is what is done.
            let score = || b.score.total_cmp(&a.score);
            crowd(a).cmp(&crowd(b)).then_with(price).then_with(score).then_with(|| a.peer_id.cmp(&b.peer_id))
        };
        let chosen = self.views.iter().filter(fits).min_by(by)?.clone();
        self.count(wanted.entry, chosen.peer_id);
        self.take(chosen.peer_id, |view| view.free = view.free.minus(wanted.create.resources));
        Some(chosen)
    }

    pub fn has_refused(&self, wanted: &Wanted, peer: PeerId) -> bool {
        self.refused.contains(&(wanted.entry, peer))
    }

    /// It was not made there, and is not asked for there again.
    pub fn refuse(&mut self, wanted: &Wanted, peer: PeerId) {
        self.refused.insert((wanted.entry, peer));
        if let Some(count) = self.at.get_mut(&(wanted.entry, peer)) {
            *count = count.saturating_sub(1);
        }
        self.take(peer, |view| view.free = view.free.plus(wanted.create.resources));
    }

    fn take(&mut self, peer: PeerId, change: impl FnOnce(&mut ProviderView)) {
        self.views.iter_mut().find(|view| view.peer_id == peer).map(change);
    }
}

fn does(wanted: &Wanted, view: &ProviderView) -> bool {
    let create = &wanted.create;
    create.resources.fits_in(view.free)
        && create.resources.fits_in(view.largest)
        && view.images.contains(&create.image)
        && create.isolation.takes(view.isolation)
        && create.provider.is_none_or(|peer| peer == view.peer_id)
        && create.country.as_ref().is_none_or(|country| view.country.as_ref() == Some(country))
        && create.arch.is_none_or(|arch| arch == view.arch)
        && create.backend.as_ref().is_none_or(|backend| *backend == view.backend)
        && create.max_price.is_none_or(|most| view.price_per_hour <= most)
}
