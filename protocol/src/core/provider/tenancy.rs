//! A lease that is let: switching its VM, hearing of it, and ending it.
use super::{Provider, STOP_AGAIN, note_refusal, put, start_effect};
use crate::core::{Ctx, Effect, EventKind, Severity, VmReport};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::message::{LeaseStage, PowerAction, ProvisionStep, Response, VmPhase};
use crate::names::{ActId, LeaseId};
use crate::refusal::Refusal;

impl Provider {
    /// Ends a lease, whatever its stage: on disk first, then the VM is taken down.
    pub(super) fn end(&mut self, ctx: &mut Ctx, lease_id: LeaseId, fault: Option<Fault>) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        if row.stage == LeaseStage::Ended {
            return;
        }
        let never_started = row.stage == LeaseStage::Provisional;
        row.stage = LeaseStage::Ended;
        row.ended_at = ctx.now;
        row.wants_power = false;
        row.fault = fault.or(row.fault.take());
        row.vm = if never_started { VmPhase::Gone } else { VmPhase::Destroying };
        row.seed.clear();
        row.touch();
        let op = put(row);
        ctx.persist(vec![op]);
        if !never_started {
            ctx.effect(Effect::DestroyVm(lease_id));
        }
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
        let row = self.ledger.owned_mut(from, lease_id)?;
        if row.acts.contains(&act) {
            return Ok(Response::Status(row.status()));
        }
        let wrong = |wanted: &str| Err(Refusal::WrongState { is: row.vm.word().to_owned(), wanted: wanted.to_owned() });
        if row.stage != LeaseStage::Active {
            return wrong("leased");
        }
        let next = match (action, row.vm) {
            (PowerAction::Start, VmPhase::Stopped) => VmPhase::Booting,
            // It is made again where it has vanished, and started where it has only died.
            (PowerAction::Start, VmPhase::Failed) => VmPhase::Provisioning(ProvisionStep::Image),
            (PowerAction::Start, VmPhase::Running | VmPhase::Booting) => return Ok(Response::Status(row.status())),
            (PowerAction::Start, _) => return wrong("stopped"),
            (PowerAction::Stop { .. }, VmPhase::Stopped) => return Ok(Response::Status(row.status())),
            // A second stop is how one forces a guest that ignores the first.
            (PowerAction::Stop { .. }, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => VmPhase::Stopping,
            (PowerAction::Stop { .. }, _) => return wrong("running"),
            (PowerAction::Restart, VmPhase::Running | VmPhase::Booting) => VmPhase::Stopping,
            (PowerAction::Restart, _) => return wrong("running"),
        };
        row.vm = next;
        row.wants_power = !matches!(action, PowerAction::Stop { .. });
        row.fault = None;
        row.acted(act);
        row.touch();
        let (op, status) = (put(row), row.status());
        let effect = match next {
            VmPhase::Provisioning(_) => start_effect(row),
            _ => Effect::PowerVm { lease_id, action },
        };
        ctx.persist(vec![op]);
        ctx.effect(effect);
        Ok(Response::Status(status))
    }

    /// What the vm worker says. A phase that only repeats changes nothing.
    pub fn vm_report(&mut self, ctx: &mut Ctx, lease_id: LeaseId, report: VmReport) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        let (ended, expired) = (row.stage == LeaseStage::Ended, row.stage == LeaseStage::Expired);
        match report {
            VmReport::Phase(VmPhase::Gone) if ended && row.vm != VmPhase::Gone => {
                row.vm = VmPhase::Gone;
                // From now on it is only kept so that a late question gets a true answer.
                row.ended_at = ctx.now;
                row.touch();
            }
            // A late report about a VM that is being taken down says nothing.
            _ if ended => return,
            // Nor does one about a VM that nobody has ordered yet.
            _ if row.stage == LeaseStage::Provisional => return,
            VmReport::Phase(VmPhase::Gone) => {
                // Its disk went with it: a new one under the old name is made only when its tenant says so.
                row.wants_power = false;
                return self.vm_failed(ctx, lease_id, vanished());
            }
            VmReport::Phase(phase) if phase == row.vm => return,
            VmReport::Phase(phase) => {
                row.vm = phase;
                row.ran |= phase == VmPhase::Running;
                if phase == VmPhase::Running {
                    row.fault = None;
                }
                row.touch();
            }
            VmReport::ActionFailed { phase, fault } => {
                row.vm = phase;
                row.fault = Some(fault);
                row.touch();
            }
            VmReport::Failed(fault) => return self.vm_failed(ctx, lease_id, fault),
        }
        let runs_on = expired && is_on(row.vm);
        let op = put(row);
        ctx.persist(vec![op]);
        if runs_on {
            self.stop_again.get_or_insert(ctx.now + STOP_AGAIN);
        }
        self.answer_watchers(ctx);
    }

    /// A VM that never ran ends its lease; one that has run keeps its disk for its tenant.
    fn vm_failed(&mut self, ctx: &mut Ctx, lease_id: LeaseId, fault: Fault) {
        let message = format!("the VM of lease {lease_id} failed: {}", fault.message);
        ctx.event(EventKind::Vm, Severity::Warning, message, None);
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        if row.ran {
            row.vm = VmPhase::Failed;
            row.fault = Some(fault);
            row.touch();
            let op = put(row);
            ctx.persist(vec![op]);
        } else {
            self.end(ctx, lease_id, Some(fault));
        }
        self.answer_watchers(ctx);
    }

    /// Switches off what runs although its lease has expired.
    pub(super) fn stop_expired(&mut self, ctx: &mut Ctx) {
        let running = self.ledger.leases().filter(|row| row.stage == LeaseStage::Expired && is_on(row.vm));
        for lease_id in running.map(|row| row.lease_id).collect::<Vec<_>>() {
            ctx.effect(Effect::PowerVm { lease_id, action: PowerAction::Stop { force: true } });
            self.stop_again.get_or_insert(ctx.now + STOP_AGAIN);
        }
    }

    pub fn authorise_tunnel(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let verdict = self.ledger.owned(from, lease_id).and_then(|row| match (row.stage, row.vm) {
            (LeaseStage::Active, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => Ok(()),
            (_, phase) => Err(Refusal::WrongState { is: phase.word().to_owned(), wanted: "running".to_owned() }),
        });
        if let Err(refusal) = &verdict {
            note_refusal(ctx, from, "a tunnel", refusal);
        }
        verdict
    }

    /// The time is over: the VM stops, the disk stays for the grace time.
    pub(super) fn expire(&mut self, ctx: &mut Ctx, lease_id: LeaseId) {
        let grace = self.grace;
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        let is_off = matches!(row.vm, VmPhase::Stopped | VmPhase::Failed);
        row.stage = LeaseStage::Expired;
        row.keep_until = row.ends_at + grace;
        row.wants_power = false;
        row.vm = if is_off { row.vm } else { VmPhase::Stopping };
        row.touch();
        let op = put(row);
        ctx.persist(vec![op]);
        if !is_off {
            ctx.effect(Effect::PowerVm { lease_id, action: PowerAction::Stop { force: true } });
        }
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has expired"), None);
    }
}

fn vanished() -> Fault {
    Fault::new(ErrorCode::CreateFailed, "the VM has vanished from its hypervisor, and its disk with it")
        .hint("start it to have it made anew, empty; or destroy it")
}

fn is_on(phase: VmPhase) -> bool {
    matches!(phase, VmPhase::Booting | VmPhase::Running | VmPhase::Suspended)
}
