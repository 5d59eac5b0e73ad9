//! Providers that say nothing any more of a VM that has not run yet.
use super::{Requestor, negotiate};
use crate::board::Board;
use crate::core::{Ctx, Effect};
use crate::error::{ErrorCode, Fault};
use crate::names::CreateId;
use crate::units::Millis;

/// One that has said nothing for so long, to three questions or four, is given up, where there is another.
const SILENT: Millis = Millis::secs(20);

impl Requestor {
    /// What has never run is nothing to wait for, if there is somebody else; if there is not, its provider may come back
    /// in time.
    pub(super) fn give_up_silent(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(rental) = self.rentals.get(&id).filter(|rental| rental.is_creating()) else { return };
        let (Some(since), Some(deal)) = (rental.unreachable_since, rental.deal.as_ref()) else { return };
        if since + SILENT > ctx.now || self.unattended.contains(&id) {
            return;
        }
        let (provider, silence) = (deal.provider, ctx.now - since);
        let has_others = negotiate::fitting(ctx, board, rental).any(|entry| entry.advert.provider != provider);
        if has_others {
            let why = format!("it has said nothing for {silence}, and its lease is given back");
            return self.deal_failed(ctx, board, id, Fault::new(ErrorCode::Timeout, why));
        }
        let work = self.work.entry(id).or_default();
        if !std::mem::replace(&mut work.waits_for_silent, true) {
            let provider = provider.short();
            let message =
                format!("provider {provider} has said nothing for {silence}; nobody else fits, so it is waited for");
            ctx.effect(Effect::Notice { create_id: id, message });
        }
    }
}
