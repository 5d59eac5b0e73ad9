//! A lease that is let: switching its VM, hearing of it, and ending it.
use super::unused::begins_to_run;
use super::{Provider, note_refusal, put};
use crate::core::{Ctx, EventKind, Severity, StoreOp};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::job::{JobId, JobKind, JobReport, JobRow, JobState};
use crate::ledger::LeaseRow;
use crate::message::{LeaseStage, PowerAction, ProvisionStep, Response, VmPhase};
use crate::names::{ActId, LeaseId};
use crate::refusal::Refusal;
use crate::units::Resources;

impl Provider {
    /// Ends a lease, whatever its stage: on disk first, then the VM is taken down.
    pub(super) fn end(&mut self, ctx: &mut Ctx, lease_id: LeaseId, fault: Option<Fault>) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        if row.stage == LeaseStage::Ended {
            return;
        }
        let (never_started, before) = (row.stage == LeaseStage::Provisional, row.vm);
        row.stage = LeaseStage::Ended;
        row.ended_at = ctx.now;
        row.wants_power = false;
        row.fault = fault.or(row.fault.take());
        row.vm = if never_started { VmPhase::Gone } else { VmPhase::Destroying };
        row.seed.clear();
        row.touch();
        let mut ops = vec![put(row)];
        if !never_started {
            ops.extend(self.jobs.order(ctx.now, lease_id, JobKind::Remove, None, before));
        }
        ctx.persist(ops);
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has ended"), None);
    }

    pub(super) fn power(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        lease_id: LeaseId,
        act: ActId,
        action: PowerAction,
    ) -> Result<Response, Refusal> {
        let row = self.ledger.owned(from, lease_id)?;
        if row.acts.contains(&act) {
            return Ok(Response::Status(row.status()));
        }
        let is = row.vm.word();
        let wrong = |wanted: &str| Err(Refusal::WrongState { is: is.to_owned(), wanted: wanted.to_owned() });
        if row.stage != LeaseStage::Active {
            return wrong("leased");
        }
        if self.jobs.is_full(lease_id) {
            return Err(Refusal::TooManyRequests { retry_after_s: 1 });
        }
        if action == PowerAction::Start {
            self.may_start(ctx, row)?;
        }
        let row = self.ledger.owned_mut(from, lease_id)?;
        let next = match (action, row.vm) {
            (PowerAction::Scale(to), VmPhase::Running | VmPhase::Stopped) => {
                return self.scale(ctx, from, lease_id, act, to);
            }
            (PowerAction::Scale(_), _) => return wrong("running or stopped"),
            (PowerAction::Start, VmPhase::Stopped) => VmPhase::Booting,
            // It is made again where it has vanished, and started where it has only died.
            (PowerAction::Start, VmPhase::Failed) => VmPhase::Provisioning(ProvisionStep::Image),
            (PowerAction::Start, VmPhase::Running | VmPhase::Booting) => return Ok(Response::Status(row.status())),
            (PowerAction::Start, _) => return wrong("stopped"),
            (PowerAction::Stop { .. }, VmPhase::Stopped) => return Ok(Response::Status(row.status())),
            // A second stop is how one forces a guest that ignores the first.
            (PowerAction::Stop { .. }, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => VmPhase::Stopping,
            // What is suspended cannot hear a polite one.
            (PowerAction::Stop { force: true }, VmPhase::Suspended) => VmPhase::Stopping,
            (PowerAction::Stop { .. }, _) => return wrong("running"),
            (PowerAction::Restart, VmPhase::Running | VmPhase::Booting) => VmPhase::Stopping,
            (PowerAction::Restart, _) => return wrong("running"),
            (PowerAction::Suspend, VmPhase::Running) => VmPhase::Stopping,
            (PowerAction::Suspend, VmPhase::Suspended) => return Ok(Response::Status(row.status())),
            (PowerAction::Suspend, _) => return wrong("running"),
            (PowerAction::Resume, VmPhase::Suspended) => VmPhase::Booting,
            (PowerAction::Resume, VmPhase::Running | VmPhase::Booting) => return Ok(Response::Status(row.status())),
            (PowerAction::Resume, _) => return wrong("suspended"),
        };
        let kind = match next {
            VmPhase::Provisioning(_) => JobKind::Provision,
            _ => JobKind::Power(action),
        };
        let before = std::mem::replace(&mut row.vm, next);
        row.wants_power = !matches!(action, PowerAction::Stop { .. });
        row.fault = None;
        row.unpaid &= !row.wants_power;
        row.unused_until = None;
        row.acted(act);
        row.touch();
        let (mut ops, status) = (vec![put(row)], row.status());
        ops.extend(self.jobs.order(ctx.now, lease_id, kind, Some(act), before));
        ctx.persist(ops);
        Ok(Response::Status(status))
    }

    /// What whoever does a job says. A job that is over says nothing any more.
    pub fn job_report(&mut self, ctx: &mut Ctx, id: JobId, report: JobReport) {
        let Some(job) = self.jobs.get(id).filter(|row| row.state == JobState::Running) else { return };
        let (lease_id, kind) = (job.lease_id, job.kind);
        match report {
            JobReport::Phase(phase) => {
                let only_waits = phase == VmPhase::Booting;
                let mut ops = if only_waits { self.scaled(ctx, id) } else { Vec::new() };
                if only_waits {
                    ops.extend(self.jobs.waits_for_guest(ctx.now, id));
                }
                match kind {
                    JobKind::Remove => ctx.persist(ops),
                    _ if self.jobs.has_newer(lease_id, id) => self.note_run(ctx, lease_id, phase, ops),
                    _ => self.vm_is(ctx, lease_id, phase, ops),
                }
            }
            JobReport::Done(phase) => {
                let mut ops = self.scaled(ctx, id);
                ops.extend(self.jobs.over(ctx.now, id, JobState::Done, None));
                match self.jobs.has_newer(lease_id, id) {
                    true => self.note_run(ctx, lease_id, phase, ops),
                    false => self.vm_is(ctx, lease_id, phase, ops),
                }
            }
            JobReport::Failed { phase, fault } => self.job_failed(ctx, id, phase, fault, None),
            JobReport::NotScaled { phase, fault, has } => self.job_failed(ctx, id, phase, fault, Some(has)),
        }
        self.answer_watchers(ctx);
    }

    /// `has` is what is known of the size of one that was to have another.
    fn job_failed(&mut self, ctx: &mut Ctx, id: JobId, phase: VmPhase, fault: Fault, has: Option<Resources>) {
        let Some((lease_id, kind)) = self.jobs.get(id).map(|job| (job.lease_id, job.kind)) else { return };
        let expired = self.ledger.lease(lease_id).is_some_and(|row| row.stage == LeaseStage::Expired);
        let insist = kind == JobKind::Remove || expired && is_on(phase) && kind.scales_to().is_none();
        let again = self.jobs.again(ctx.now, id, &fault, insist);
        let has = has.and_then(|has| self.not_scaled(lease_id, has, again.is_none()));
        if let Some(op) = again {
            return ctx.persist([op].into_iter().chain(has).collect());
        }
        let mut ops = self.jobs.over(ctx.now, id, JobState::Failed, Some(fault.clone()));
        ops.extend(has);
        if kind == JobKind::Provision || phase == VmPhase::Failed {
            return self.vm_failed(ctx, lease_id, fault, ops);
        }
        // Where something else is to be done already, its tenant waits for that.
        let last = !self.jobs.has_newer(lease_id, id);
        if let Some(row) = self.ledger.row_mut(lease_id).filter(|_| last) {
            row.vm = phase;
            row.fault = Some(fault);
            row.touch();
            ops.push(put(row));
        }
        ctx.persist(ops);
    }

    /// The operator takes a job back. A VM that never ran ends its lease; another one stands where it stood before.
    pub fn cancel_job(&mut self, ctx: &mut Ctx, id: JobId) {
        let Some(job) = self.jobs.get(id).filter(|job| may_cancel(job).is_ok()) else { return };
        let (lease_id, kind, before) = (job.lease_id, job.kind, job.before);
        let fault =
            Fault::new(ErrorCode::Unavailable, format!("the provider's operator has cancelled the {}", kind.word()));
        let mut ops = self.jobs.drop(ctx.now, id, Some(fault.clone()));
        let has = self.ledger.lease(lease_id).map(|row| row.spec.resources).filter(|_| kind.scales_to().is_some());
        ops.extend(has.and_then(|has| self.not_scaled(lease_id, has, true)));
        if kind == JobKind::Provision {
            return self.vm_failed(ctx, lease_id, fault, ops);
        }
        if let Some(row) = self.ledger.row_mut(lease_id) {
            row.vm = before;
            row.wants_power = is_on(before);
            row.fault = Some(fault);
            row.touch();
            ops.push(put(row));
        }
        ctx.persist(ops);
    }

    /// Something else is to be done to it already: where it stands now is not what its tenant waits for.
    fn note_run(&mut self, ctx: &mut Ctx, lease_id: LeaseId, phase: VmPhase, mut ops: Vec<StoreOp>) {
        let (patience, first) = (self.unused_stop, |row: &&mut LeaseRow| phase == VmPhase::Running && !row.ran);
        if let Some(row) = self.ledger.row_mut(lease_id).filter(first) {
            begins_to_run(row, ctx.now, patience);
            ops.push(put(row));
        }
        ctx.persist(ops);
    }

    /// Where a VM stands now. A phase that only repeats changes nothing. `ops` are kept with it.
    pub(super) fn vm_is(&mut self, ctx: &mut Ctx, lease_id: LeaseId, phase: VmPhase, mut ops: Vec<StoreOp>) {
        let patience = self.unused_stop;
        let Some(row) = self.ledger.row_mut(lease_id) else { return ctx.persist(ops) };
        match (row.stage, phase) {
            (LeaseStage::Ended, VmPhase::Gone) if row.vm != VmPhase::Gone => {
                row.vm = VmPhase::Gone;
                // From now on it is only kept so that a late question gets a true answer.
                row.ended_at = ctx.now;
                row.touch();
                ops.push(put(row));
            }
            (LeaseStage::Ended | LeaseStage::Provisional, _) => {}
            (_, VmPhase::Gone) => {
                // Its disk went with it: a new one under the old name is made only when its tenant says so.
                row.wants_power = false;
                return self.vm_failed(ctx, lease_id, vanished(), ops);
            }
            _ if phase == row.vm => {}
            _ => {
                row.vm = phase;
                if phase == VmPhase::Running {
                    begins_to_run(row, ctx.now, patience);
                    row.fault = None;
                }
                row.touch();
                ops.push(put(row));
            }
        }
        ctx.persist(ops);
    }

    /// A VM that never ran ends its lease; one that has run keeps its disk for its tenant.
    fn vm_failed(&mut self, ctx: &mut Ctx, lease_id: LeaseId, fault: Fault, mut ops: Vec<StoreOp>) {
        let message = format!("the VM of lease {lease_id} failed: {}", fault.message);
        let Some(row) = self.ledger.row_mut(lease_id) else { return ctx.persist(ops) };
        if row.ran {
            row.vm = VmPhase::Failed;
            row.fault = Some(fault);
            row.touch();
            ops.push(put(row));
            ctx.persist(ops);
        } else {
            ctx.persist(ops);
            self.end(ctx, lease_id, Some(fault));
        }
        ctx.event(EventKind::Vm, Severity::Warning, message, None);
    }

    pub fn authorise_tunnel(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let verdict = self.ledger.owned(from, lease_id).and_then(|row| match (row.stage, row.vm) {
            (LeaseStage::Active, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => Ok(()),
            (_, phase) => Err(Refusal::WrongState { is: phase.word().to_owned(), wanted: "running".to_owned() }),
        });
        match &verdict {
            Ok(()) => self.used(ctx, lease_id),
            Err(refusal) => note_refusal(ctx, from, "a tunnel", refusal),
        }
        verdict
    }

    /// Also of one that is off: why it does not come up is what its tenant wants to read.
    pub fn authorise_log(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let verdict = self.ledger.owned(from, lease_id).and_then(|row| match row.stage {
            LeaseStage::Active | LeaseStage::Expired => Ok(()),
            LeaseStage::Provisional | LeaseStage::Ended => {
                Err(Refusal::WrongState { is: row.vm.word().to_owned(), wanted: "leased".to_owned() })
            }
        });
        if let Err(refusal) = &verdict {
            note_refusal(ctx, from, "a console's log", refusal);
        }
        verdict
    }

    /// The time is over: the VM stops, the disk stays for the grace time.
    pub(super) fn expire(&mut self, ctx: &mut Ctx, lease_id: LeaseId) {
        let grace = self.grace;
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        let (before, is_off) = (row.vm, matches!(row.vm, VmPhase::Stopped | VmPhase::Failed));
        row.stage = LeaseStage::Expired;
        // A provider that was away when it ended does not take that off the time to fetch what is on the disk.
        row.keep_until = row.ends_at.max(ctx.now) + grace;
        row.wants_power = false;
        row.vm = if is_off { row.vm } else { VmPhase::Stopping };
        row.touch();
        let mut ops = vec![put(row)];
        if !is_off {
            let stop = JobKind::Power(PowerAction::Stop { force: true });
            ops.extend(self.jobs.order(ctx.now, lease_id, stop, None, before));
        }
        ctx.persist(ops);
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has expired"), None);
    }
}

/// A removal is a promise: capacity that is sold again counts on it.
pub fn may_cancel(job: &JobRow) -> Result<(), Fault> {
    let why = match (job.state, job.kind) {
        (state, _) if state.is_over() => format!("job {} is over: {}", job.id, state.word()),
        (JobState::Running, JobKind::Power(PowerAction::Scale(_))) => {
            format!("job {} gives a VM another size, and has begun", job.id)
        }
        (_, JobKind::Remove) => {
            format!("job {} removes a VM that nobody leases any more, and is not taken back", job.id)
        }
        _ => return Ok(()),
    };
    Err(Fault::new(ErrorCode::WrongState, why).hint("'golemnode job list' shows those that can be cancelled"))
}

fn vanished() -> Fault {
    Fault::new(ErrorCode::CreateFailed, "the VM has vanished from its hypervisor, and its disk with it")
        .hint("start it to have it made anew, empty; or destroy it")
}

pub(super) fn is_on(phase: VmPhase) -> bool {
    matches!(phase, VmPhase::Booting | VmPhase::Running | VmPhase::Suspended)
}
