//! A lease that is let: switching its VM, hearing of it, and ending it.
use super::{Provider, note_refusal, put};
use crate::core::{Ctx, Effect, EventKind, Severity, VmReport};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::message::{LeaseStage, PowerAction, Response, VmPhase};
use crate::names::LeaseId;
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
        action: PowerAction,
    ) -> Result<Response, Refusal> {
        let row = self.ledger.owned_mut(from, lease_id)?;
        let wrong = |wanted: &str| Err(Refusal::WrongState { is: row.vm.word().to_owned(), wanted: wanted.to_owned() });
        if row.stage != LeaseStage::Active {
            return wrong("leased");
        }
        let next = match (action, row.vm) {
            (PowerAction::Start, VmPhase::Stopped) => VmPhase::Booting,
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
        row.touch();
        let op = put(row);
        let status = row.status();
        ctx.persist(vec![op]);
        ctx.effect(Effect::PowerVm { lease_id, action });
        Ok(Response::Status(status))
    }

    /// What the vm worker says. A phase that only repeats changes nothing.
    pub fn vm_report(&mut self, ctx: &mut Ctx, lease_id: LeaseId, report: VmReport) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        let ended = row.stage == LeaseStage::Ended;
        match report {
            VmReport::Phase(VmPhase::Gone) => {
                if !ended {
                    // Nobody asked for that: it is made anew, or its power state is restored, by the reconciler.
                    return;
                }
                row.vm = VmPhase::Gone;
                row.touch();
            }
            // A late report about a VM that is being taken down says nothing.
            _ if ended => return,
            VmReport::Phase(phase) if phase == row.vm => return,
            VmReport::Phase(phase) => {
                row.vm = phase;
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
            VmReport::Failed(fault) => {
                let message = format!("the VM of lease {lease_id} failed: {}", fault.message);
                ctx.event(EventKind::Vm, Severity::Warning, message, None);
                // A VM that never ran ends its lease; one that has run keeps its disk for its tenant.
                if matches!(row.vm, VmPhase::Provisioning(_) | VmPhase::Waiting) {
                    self.end(ctx, lease_id, Some(fault));
                    return self.answer_watchers(ctx);
                }
                row.vm = VmPhase::Failed;
                row.fault = Some(fault);
                row.touch();
            }
        }
        let op = put(row);
        ctx.persist(vec![op]);
        self.answer_watchers(ctx);
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
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        row.stage = LeaseStage::Expired;
        row.wants_power = false;
        row.vm = VmPhase::Stopping;
        row.touch();
        let op = put(row);
        ctx.persist(vec![op]);
        ctx.effect(Effect::PowerVm { lease_id, action: PowerAction::Stop { force: true } });
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has expired"), None);
    }
}
