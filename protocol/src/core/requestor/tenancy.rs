//! A lease that is active: knowing how its VM fares, and switching it.
use super::negotiate::{mark, refused};
use super::{Phase, Requestor, no_such_vm, put};
use crate::board::Board;
use crate::core::{Ctx, Effect, RpcFailure};
use crate::error::{ErrorCode, Fault};
use crate::message::{LeaseStage, LeaseStatus, PowerAction, Request, Response, VmPhase};
use crate::names::CreateId;
use crate::refusal::Refusal;
use crate::units::Millis;

/// A VM at rest is asked about this often; one that changes is watched without a break.
const AT_REST: Millis = Millis::secs(30);

impl Requestor {
    pub(super) fn watch(&mut self, ctx: &mut Ctx, id: CreateId) {
        let Some(rental) = self.rentals.get(&id) else { return };
        let Some(deal) = rental.deal.as_ref() else { return };
        let (provider, lease_id) = (deal.provider, deal.lease_id);
        let work = self.work.entry(id).or_default();
        if work.rpc.is_some() {
            return;
        }
        let request = match rental.status.as_ref() {
            Some(status) if is_moving(status.vm) => Request::Watch { lease_id, seen: status.revision },
            _ => Request::Status(lease_id),
        };
        work.rpc = Some(ctx.send(provider, request));
        work.wake = None;
    }

    /// Somebody looks: a status that may be half a minute old is asked for anew.
    pub fn refresh(&mut self, ctx: &mut Ctx, id: CreateId) {
        if self.rentals.get(&id).is_some_and(|rental| rental.phase == Phase::Leased) {
            self.watch(ctx, id);
        }
    }

    pub(super) fn status_answered(
        &mut self,
        ctx: &mut Ctx,
        board: &Board,
        id: CreateId,
        result: Result<Response, RpcFailure>,
    ) {
        match result {
            Ok(Response::Status(status)) => {
                self.take_status(ctx, board, id, status);
                let resting = self
                    .rentals
                    .get(&id)
                    .and_then(|rental| rental.status.as_ref())
                    .is_none_or(|status| !is_moving(status.vm));
                let work = self.work.entry(id).or_default();
                work.backoff = None;
                work.wake = Some(if resting { ctx.now + ctx.jitter(AT_REST) } else { ctx.now });
            }
            Ok(Response::Refused(
                refusal @ (Refusal::NoSuchLease(_) | Refusal::Released(_) | Refusal::NotYours(_)),
            )) => {
                self.lost(ctx, id, refusal.into());
            }
            other => {
                let fault = refused(other);
                let work = self.work.entry(id).or_default();
                let at = work.back_off(ctx);
                work.wake = Some(at);
                if let Some(rental) = self.rentals.get_mut(&id) {
                    rental.unreachable_since.get_or_insert(ctx.now);
                    rental.fault = Some(fault);
                }
                ctx.effect(Effect::Rental(id));
            }
        }
    }

    /// What the provider says about our VM; an answer that was overtaken says nothing.
    pub(super) fn take_status(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, status: LeaseStatus) {
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        if rental.deal.as_ref().is_none_or(|deal| deal.lease_id != status.lease_id) {
            return;
        }
        if rental.status.as_ref().is_some_and(|known| known.revision > status.revision) {
            return;
        }
        rental.seen = ctx.now;
        rental.unreachable_since = None;
        rental.fault = status.fault.clone();
        let before = rental.status.replace(status.clone());
        let changed = before.as_ref() != Some(&status);
        if matches!(status.vm, VmPhase::Booting | VmPhase::Running) {
            mark(&mut rental.marks.provisioned, ctx.now);
        }
        if status.vm == VmPhase::Running {
            mark(&mut rental.marks.running, ctx.now);
        }
        let runs = status.vm == VmPhase::Running;
        let first_run = runs && !rental.ran;
        rental.ran |= runs;
        let over = status.stage == LeaseStage::Ended || !rental.ran && status.vm == VmPhase::Failed;
        if over && !rental.ran {
            let fault =
                status.fault.unwrap_or_else(|| Fault::new(ErrorCode::CreateFailed, "the provider ended the lease"));
            return self.deal_failed(ctx, board, id, fault);
        }
        if over {
            let expired = before.is_some_and(|before| before.stage == LeaseStage::Expired);
            let fault = status.fault.unwrap_or_else(|| {
                Fault::new(
                    ErrorCode::NoSuchVm,
                    if expired { "its lease has expired" } else { "the provider ended its lease" },
                )
            });
            return self.lost(ctx, id, fault);
        }
        if changed {
            let provider = rental.deal.as_ref().map(|deal| deal.provider);
            ctx.persist(vec![put(rental)]);
            ctx.effect(Effect::Rental(id));
            if let Some(provider) = provider.filter(|_| first_run) {
                self.learn(provider, |experience| experience.succeeded += 1);
            }
        }
    }

    /// The provider has it no more, and nothing is left to give back.
    fn lost(&mut self, ctx: &mut Ctx, id: CreateId, fault: Fault) {
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        rental.phase = Phase::Failed;
        rental.fault = Some(fault);
        rental.seed.clear();
        ctx.persist(vec![put(rental)]);
        self.work.remove(&id);
        ctx.effect(Effect::Rental(id));
    }

    pub fn power(&mut self, ctx: &mut Ctx, ticket: u64, id: CreateId, action: PowerAction) {
        let refusal = match self.rentals.get(&id) {
            None => no_such_vm(id),
            Some(rental) => match rental.deal.as_ref().filter(|_| rental.phase == Phase::Leased) {
                Some(deal) => {
                    let (provider, lease_id) = (deal.provider, deal.lease_id);
                    let rpc = ctx.send(provider, Request::Power { lease_id, action });
                    self.work.entry(id).or_default().powers.insert(rpc, ticket);
                    return;
                }
                None => Fault::new(ErrorCode::WrongState, format!("'{}' has no active lease", rental.name))
                    .hint("'golemnode vm info' shows its state"),
            },
        };
        ctx.effect(Effect::Answer { ticket, result: Err(refusal) });
    }

    pub(super) fn power_answered(
        &mut self,
        ctx: &mut Ctx,
        id: CreateId,
        ticket: u64,
        result: Result<Response, RpcFailure>,
    ) {
        let result = match result {
            Ok(Response::Status(status)) => {
                let moving = is_moving(status.vm);
                if let Some(rental) = self.rentals.get_mut(&id) {
                    rental.fault = None;
                    rental.status = Some(status);
                    rental.seen = ctx.now;
                }
                let work = self.work.entry(id).or_default();
                if moving && work.rpc.is_none() {
                    work.wake = Some(ctx.now);
                }
                ctx.effect(Effect::Rental(id));
                Ok(id)
            }
            other => Err(refused(other)),
        };
        ctx.effect(Effect::Answer { ticket, result });
    }
}

/// Whether more is to come by itself.
fn is_moving(phase: VmPhase) -> bool {
    match phase {
        VmPhase::Waiting | VmPhase::Provisioning(_) | VmPhase::Booting | VmPhase::Stopping | VmPhase::Destroying => {
            true
        }
        VmPhase::Running | VmPhase::Stopped | VmPhase::Suspended | VmPhase::Failed | VmPhase::Gone => false,
    }
}
