//! Giving leases back. The wish is on disk before anything else is tried, and stays there until the provider has said
//! that the VM is gone, or until a lease that was never confirmed has lapsed by itself.
use super::receipts::Terms;
use super::{Deal, Phase, Requestor, put};
use crate::advert::MAX_SKEW;
use crate::core::{Ctx, Effect, RpcFailure, StoreOp, Table};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::lease::PROVISIONAL;
use crate::message::{LeaseStage, Request, Response, VmPhase};
use crate::names::{CreateId, LeaseId};
use crate::refusal::Refusal;
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// As for everything that is said again: a second, doubling to half a minute.
const RETRY: Millis = super::RETRY;
const MAX_RETRY: Millis = super::MAX_RETRY;
/// A release is tried for at least this long, even when its lease is over by the clock.
const LAST_TRIES: Millis = Millis::secs(600);
/// A provider that answers a watch at once without news is asked again after this.
const NO_NEWS: Millis = Millis::secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    pub lease_id: LeaseId,
    pub provider: PeerId,
    pub create_id: CreateId,
    pub since: Timestamp,
    /// When the lease is certainly over by itself.
    forget_after: Timestamp,
    /// The lease may have run, and its rental may be forgotten before its last receipt comes.
    #[serde(default)]
    pub(super) terms: Option<Terms>,
    #[serde(skip)]
    pub(super) rpc: Option<u64>,
    #[serde(skip)]
    sent: Timestamp,
    #[serde(skip)]
    wake: Option<Timestamp>,
    #[serde(skip)]
    backoff: Option<Millis>,
    /// The provider knows; what is left is to see the VM gone.
    #[serde(skip)]
    acknowledged: Option<u64>,
    #[serde(skip)]
    pub unreachable: Option<Fault>,
}

impl Release {
    fn of(deal: &Deal, create_id: CreateId, duration: Millis, ctx: &Ctx) -> Self {
        let now = ctx.now;
        let over = match deal.confirm {
            None => deal.accept_expires + PROVISIONAL,
            // What may have been confirmed ends by itself too, by the clock of a provider that never comes back.
            Some(_) if deal.ends_at > Timestamp(0) => deal.ends_at.max(now + LAST_TRIES),
            Some(_) => (deal.granted + duration).max(now + LAST_TRIES),
        };
        Release {
            lease_id: deal.lease_id,
            provider: deal.provider,
            create_id,
            since: now,
            forget_after: over + Millis(2 * MAX_SKEW.0),
            terms: Terms::of(deal, ctx.network),
            rpc: None,
            sent: now,
            wake: Some(now),
            backoff: None,
            acknowledged: None,
            unreachable: None,
        }
    }
    pub(super) fn wake_now(&mut self, now: Timestamp) {
        if self.rpc.is_none() {
            self.wake = Some(now);
        }
    }
    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.wake.into_iter().chain([self.forget_after]).min()
    }
    pub(super) fn clock_set_back(&mut self, by: Millis) {
        for at in [&mut self.forget_after, &mut self.sent].into_iter().chain(&mut self.wake) {
            *at = at.set_back(by);
        }
    }
}

impl Requestor {
    /// Journals the release of what this rental may have agreed; it is sent once that is on disk.
    pub(super) fn release_deal(&mut self, ctx: &mut Ctx, id: CreateId) -> Vec<StoreOp> {
        let Some(rental) = self.rentals.get(&id) else { return Vec::new() };
        let Some(deal) = rental.deal.as_ref() else { return Vec::new() };
        let release = Release::of(deal, id, rental.lasts(), ctx);
        let op = StoreOp::put(Table::Releases, &release.lease_id.0, &release);
        self.releases.entry(release.lease_id).or_insert(release);
        vec![op]
    }

    pub fn destroy(&mut self, ctx: &mut Ctx, ticket: u64, id: CreateId) {
        let Some(phase) = self.rentals.get(&id).map(|rental| rental.phase) else {
            return ctx.effect(Effect::Answer { ticket, result: Err(super::no_such_vm(id)) });
        };
        match phase {
            Phase::Discovering | Phase::Quoting | Phase::Failed => {
                let op = self.forget(ctx, id);
                ctx.persist(vec![op]);
            }
            Phase::Accepting | Phase::Confirming | Phase::Leased => {
                let mut ops = self.release_deal(ctx, id);
                if let Some(rental) = self.rentals.get_mut(&id) {
                    rental.phase = Phase::Releasing;
                    ops.push(put(rental));
                }
                ctx.persist(ops);
                self.drop_work(ctx, id);
            }
            Phase::Releasing => {}
        }
        ctx.effect(Effect::Rental(id));
        ctx.effect(Effect::Answer { ticket, result: Ok(id) });
    }

    pub(super) fn advance_releases(&mut self, ctx: &mut Ctx) {
        let over: Vec<LeaseId> = self
            .releases
            .values()
            .filter(|release| release.forget_after <= ctx.now)
            .map(|release| release.lease_id)
            .collect();
        for lease_id in over {
            self.released(ctx, lease_id);
        }
        let now = ctx.now;
        for release in self.releases.values_mut().filter(|release| release.wake.is_some_and(|at| at <= now)) {
            release.sent = now;
            release.wake = Some(now + super::UNANSWERED);
            let request = match release.acknowledged {
                None => Request::Release(release.lease_id),
                Some(seen) => Request::Watch { lease_id: release.lease_id, seen },
            };
            release.rpc = Some(ctx.send(release.provider, request));
        }
    }

    pub(super) fn release_answered(&mut self, ctx: &mut Ctx, lease_id: LeaseId, result: Result<Response, RpcFailure>) {
        if let Ok(Response::Status(status)) = &result {
            self.take_receipt(ctx, status);
        }
        let Some(release) = self.releases.get_mut(&lease_id) else { return };
        release.rpc = None;
        match result {
            Ok(Response::Status(status)) if status.stage == LeaseStage::Ended && status.vm == VmPhase::Gone => {
                return self.released(ctx, lease_id);
            }
            Ok(Response::Status(status)) if status.stage == LeaseStage::Ended => {
                let news = release.acknowledged != Some(status.revision);
                release.acknowledged = Some(status.revision);
                release.unreachable = None;
                release.backoff = None;
                release.wake = Some(if news { ctx.now } else { ctx.now.max(release.sent + NO_NEWS) });
                let create_id = release.create_id;
                return ctx.effect(Effect::Rental(create_id));
            }
            Ok(Response::Refused(Refusal::NoSuchLease(_) | Refusal::Released(_) | Refusal::NotYours(_))) => {
                return self.released(ctx, lease_id);
            }
            other => release.unreachable = Some(super::checks::refused(other)),
        }
        let delay = release.backoff.map_or(RETRY, |last| Millis((last.0 * 2).min(MAX_RETRY.0)));
        release.backoff = Some(delay);
        release.wake = Some(ctx.now + ctx.jitter(delay));
        let create_id = release.create_id;
        ctx.effect(Effect::Rental(create_id));
    }

    /// The VM is gone, or never was.
    fn released(&mut self, ctx: &mut Ctx, lease_id: LeaseId) {
        let Some(release) = self.releases.remove(&lease_id) else { return };
        let mut ops = vec![StoreOp::delete(Table::Releases, &lease_id.0)];
        let id = release.create_id;
        let ends_rental = self.rentals.get(&id).is_some_and(|rental| {
            rental.phase == Phase::Releasing && rental.deal.as_ref().is_some_and(|deal| deal.lease_id == lease_id)
        });
        if ends_rental {
            ops.push(self.forget(ctx, id));
        }
        ctx.persist(ops);
        ctx.effect(Effect::Rental(id));
    }
}
