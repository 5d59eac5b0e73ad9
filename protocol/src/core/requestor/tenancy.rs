//! A lease that is active: knowing how its VM fares, and switching it.
use super::checks::refused;
use super::negotiate::mark;
use super::{MAX_POWERS, POWER_TRIES, Phase, Power, Requestor, UNANSWERED, no_such_vm, put};
use crate::board::Board;
use crate::core::{Ctx, Effect, EventKind, RpcFailure, Severity, StoreOp};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::message::{LeaseStage, LeaseStatus, PowerAction, Request, Response, VmPhase};
use crate::names::{ActId, CreateId, VmName};
use crate::refusal::Refusal;
use crate::units::{Millis, Timestamp};

/// A VM at rest is asked about this often; one that changes is watched without a break.
const AT_REST: Millis = Millis::secs(30);
/// Between two watches at the least: changes follow one another within milliseconds, and a provider may be hostile.
const WATCH_SPACING: Millis = Millis(20);
/// A provider that answers a watch at once without news (it has too many) is asked again after this, and after twice as
/// long each time, for it has as many to answer as there are VMs that move.
const NO_NEWS: Millis = Millis::secs(1);
const LONGEST_NO_NEWS: Millis = Millis::secs(8);
const STOPS: &str = "its provider's node was stopped";

fn is_stop(fault: &Fault) -> bool {
    fault.code == ErrorCode::Unavailable && fault.message == STOPS
}

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
        work.ask(ctx, provider, request);
    }

    /// Its provider knows it by its lease alone, so that the name is ours to change.
    pub fn rename(
        &mut self,
        ctx: &mut Ctx,
        id: CreateId,
        name: VmName,
        identity_file: Option<String>,
    ) -> Result<CreateId, Fault> {
        self.may_rename(id, &name)?;
        let failed = self.by_name(&name).filter(|other| other.create_id != id).map(|other| other.create_id);
        let mut ops: Vec<StoreOp> = failed.map(|failed| self.forget(ctx, failed)).into_iter().collect();
        if let Some(rental) = self.rentals.get_mut(&id) {
            (rental.name, rental.identity_file) = (name, identity_file);
            ops.push(put(rental));
        }
        ctx.persist(ops);
        ctx.effect(Effect::Rental(id));
        Ok(id)
    }

    /// Whether the name is free, or that of a create that failed, which is forgotten.
    pub fn may_rename(&self, id: CreateId, name: &VmName) -> Result<(), Fault> {
        let rental = self.rentals.get(&id).filter(|rental| rental.phase != Phase::Releasing);
        let rental = rental.ok_or_else(|| no_such_vm(id))?;
        match self.by_name(name) {
            Some(other) if other.create_id != id && other.phase != Phase::Failed => {
                Err(Fault::new(ErrorCode::VmExists, format!("there is a VM '{name}' already")).hint("use another name"))
            }
            _ if rental.is_creating() => {
                let fault = Fault::new(ErrorCode::WrongState, format!("'{}' is still being created", rental.name));
                Err(fault.hint(format!("'golemnode vm wait {} running' waits for it", rental.name)))
            }
            _ => Ok(()),
        }
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
                let news = self.take_status(ctx, board, id, status);
                self.look_again_later(ctx, id, news);
            }
            Ok(Response::Refused(
                refusal @ (Refusal::NoSuchLease(_) | Refusal::Released(_) | Refusal::NotYours(_)),
            )) => {
                if self.rentals.get(&id).is_some_and(|rental| rental.ran) {
                    self.lost(ctx, id, refusal.into());
                } else {
                    self.deal_failed(ctx, board, id, refusal.into());
                }
            }
            other => {
                let fault = refused(other);
                self.again(ctx, id);
                if let Some(rental) = self.rentals.get_mut(&id) {
                    let said_why = rental.unreachable_since.is_some() && rental.fault.as_ref().is_some_and(is_stop);
                    rental.unreachable_since.get_or_insert(ctx.now);
                    rental.fault = rental.fault.take().filter(|_| said_why).or(Some(fault));
                }
                ctx.effect(Effect::Rental(id));
                self.give_up_silent(ctx, board, id);
            }
        }
    }

    /// This peer's node stops. Whatever it says, it only concerns the VMs that we have there, until it answers again.
    pub fn provider_stops(&mut self, ctx: &mut Ctx, peer: PeerId) {
        let there = |rental: &&mut super::Rental| {
            rental.phase == Phase::Leased && rental.deal.as_ref().is_some_and(|deal| deal.provider == peer)
        };
        for rental in self.rentals.values_mut().filter(there) {
            let known = rental.unreachable_since.replace(ctx.now).is_some();
            rental.fault = Some(Fault::new(ErrorCode::Unavailable, STOPS));
            ctx.effect(Effect::Rental(rental.create_id));
            if !known {
                let name = rental.name.to_string();
                let message = format!("{}: {STOPS}; VM '{name}' runs on, out of reach until it is back", peer.short());
                ctx.event(EventKind::Market, Severity::Warning, message, Some(name));
            }
        }
    }

    /// When the next question is due, if the rental still is one.
    pub(super) fn look_again_later(&mut self, ctx: &mut Ctx, id: CreateId, news: bool) {
        let Some(rental) = self.rentals.get(&id).filter(|rental| rental.phase == Phase::Leased) else { return };
        let moving = rental.status.as_ref().is_some_and(|status| is_moving(status.vm));
        let work = self.work.entry(id).or_default();
        let at_once = moving && !news && ctx.now < work.sent + NO_NEWS;
        let next = work.backoff.map_or(NO_NEWS, |last| Millis(2 * last.0).min(LONGEST_NO_NEWS));
        work.backoff = at_once.then_some(next);
        work.wake = Some(match (moving, work.backoff) {
            (false, _) => ctx.now + ctx.jitter(AT_REST),
            (true, None) => ctx.now.max(work.sent + WATCH_SPACING),
            (true, Some(pause)) => work.sent + pause,
        });
    }

    /// What the provider says about our VM; an answer that was overtaken says nothing. True if it was news.
    pub(super) fn take_status(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, status: LeaseStatus) -> bool {
        self.take_receipt(ctx, &status);
        let Some(rental) = self.rentals.get_mut(&id) else { return false };
        if rental.deal.as_ref().is_none_or(|deal| deal.lease_id != status.lease_id) {
            return false;
        }
        if rental.status.as_ref().is_some_and(|known| known.revision > status.revision) {
            return false;
        }
        // The start's receipt is kept with the deal; what a peer says beside it is bounded before it is kept.
        let status = LeaseStatus { fault: status.fault.map(Fault::from_peer), active: None, receipt: None, ..status };
        rental.seen = ctx.now;
        let back = rental.unreachable_since.take().is_some();
        rental.fault = status.fault.clone();
        let before = rental.status.replace(status.clone());
        let warned = before.as_ref().is_some_and(|before| before.credit_ends.is_some());
        if let Some(at) = status.credit_ends.filter(|_| !warned) {
            let (name, lasts) = (rental.name.to_string(), at - ctx.now);
            let message = format!("VM '{name}' stops in {lasts}, when your credit with its provider is used up");
            ctx.event(EventKind::Market, Severity::Warning, message, Some(name));
        }
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
            self.deal_failed(ctx, board, id, fault);
            return true;
        }
        if over {
            let expired = before.is_some_and(|before| before.stage == LeaseStage::Expired);
            let fault = status.fault.unwrap_or_else(|| {
                Fault::new(
                    ErrorCode::NoSuchVm,
                    if expired { "its lease has expired" } else { "the provider ended its lease" },
                )
            });
            self.lost(ctx, id, fault);
            return true;
        }
        if back && !changed {
            ctx.effect(Effect::Rental(id));
        }
        if changed {
            let provider = rental.deal.as_ref().map(|deal| deal.provider);
            let mut ops = vec![put(rental)];
            if let Some(provider) = provider.filter(|_| first_run) {
                ops.extend(self.note_time(ctx.network, id));
                self.learn(provider, |experience| experience.succeeded += 1);
            }
            ctx.persist(ops);
            ctx.effect(Effect::Rental(id));
        }
        changed
    }

    /// The provider has it no more, and nothing is left to give back.
    fn lost(&mut self, ctx: &mut Ctx, id: CreateId, fault: Fault) {
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let expired = rental.deal.as_ref().is_some_and(|deal| deal.ends_at > Timestamp(0) && deal.ends_at <= ctx.now);
        rental.phase = Phase::Failed;
        rental.fault = Some(if expired { Fault::new(ErrorCode::NoSuchVm, "its lease has expired") } else { fault });
        rental.seed.clear();
        ctx.persist(vec![put(rental)]);
        self.drop_work(ctx, id);
        ctx.effect(Effect::Rental(id));
    }

    pub fn power(&mut self, ctx: &mut Ctx, ticket: u64, id: CreateId, action: PowerAction) {
        let refusal = match self.rentals.get(&id) {
            None => no_such_vm(id),
            Some(_) if self.work.get(&id).is_some_and(|work| work.powers.len() >= MAX_POWERS) => {
                Refusal::TooManyRequests { retry_after_s: 1 }.into()
            }
            Some(rental) => match rental.deal.as_ref().filter(|_| rental.phase == Phase::Leased) {
                Some(_) => {
                    let act = ActId(ctx.random_16());
                    let power = Power { ticket, act, action, tries: 0, until: ctx.now + UNANSWERED };
                    return self.try_power(ctx, id, power);
                }
                None => Fault::new(ErrorCode::WrongState, format!("'{}' has no active lease", rental.name))
                    .hint("'golemnode vm info' shows its state"),
            },
        };
        ctx.effect(Effect::Answer { ticket, result: Err(refusal) });
    }

    fn try_power(&mut self, ctx: &mut Ctx, id: CreateId, power: Power) {
        let Some(deal) = self.rentals.get(&id).and_then(|rental| rental.deal.as_ref()) else {
            let result = Err(Fault::new(ErrorCode::WrongState, "its lease has ended meanwhile"));
            return ctx.effect(Effect::Answer { ticket: power.ticket, result });
        };
        let request = Request::Power { lease_id: deal.lease_id, act: power.act, action: power.action };
        let rpc = ctx.send(deal.provider, request);
        self.work.entry(id).or_default().powers.insert(rpc, Power { tries: power.tries + 1, ..power });
    }

    pub(super) fn power_answered(
        &mut self,
        ctx: &mut Ctx,
        board: &Board,
        id: CreateId,
        power: Power,
        result: Result<Response, RpcFailure>,
    ) {
        let may_go_again = power.tries < POWER_TRIES && ctx.now < power.until;
        let ticket = power.ticket;
        let result = match result {
            // Whether it was done nobody knows. The provider does it once.
            Err(RpcFailure::Timeout) if may_go_again => return self.try_power(ctx, id, power),
            Ok(Response::Status(status)) => {
                let news = self.take_status(ctx, board, id, status);
                if self.work.get(&id).is_some_and(|work| work.rpc.is_none()) {
                    self.look_again_later(ctx, id, news);
                }
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
