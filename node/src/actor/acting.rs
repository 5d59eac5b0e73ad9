//! Switching a VM, and following it to where it is to be.
use super::commands::{MAX_WATCHERS, Ticket, reply};
use super::{Actor, Waiting};
use crate::api::types::*;
use crate::handle::Answer;
use protocol::core::Input;
use protocol::core::requestor::Rental;
use protocol::message::{PowerAction, VmPhase};
use protocol::names::CreateId;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use std::collections::BTreeSet;

/// VMs that somebody waits for, asked about each second; the others as any VM at rest.
const REFRESHED: usize = 16;

/// What a client waits for.
pub(super) struct Until {
    id: CreateId,
    status: VmStatus,
    /// The wait follows an action: if that fails, so does the wait.
    acted: bool,
    last: VmView,
}

impl Actor {
    pub(super) fn act(&mut self, vm: &str, body: VmActionBody, answer: Answer<VmView>) {
        let rental = match self.find(vm) {
            Ok(rental) => rental,
            Err(fault) => return reply(answer, Err(fault)),
        };
        let id = rental.create_id;
        let (status, action) = match body.action {
            VmActionName::Start => (VmStatus::Running, Some(PowerAction::Start)),
            VmActionName::Stop => (VmStatus::Stopped, Some(PowerAction::Stop { force: body.force })),
            VmActionName::Restart => (VmStatus::Running, Some(PowerAction::Restart)),
            VmActionName::Suspend => (VmStatus::Suspended, Some(PowerAction::Suspend)),
            VmActionName::Resume => (VmStatus::Running, Some(PowerAction::Resume)),
            VmActionName::Destroy => (VmStatus::Destroyed, None),
            VmActionName::Scale => match scaled(rental, &body) {
                Ok(to) => (at_rest(rental), Some(PowerAction::Scale(to))),
                Err(fault) => return reply(answer, Err(fault)),
            },
        };
        if action.is_none() {
            // The last view is needed once the VM is no more.
            self.wait_for_destroyed(id, answer);
            let ticket = self.ticket(Ticket::Quiet);
            return self.input(Input::Destroy { ticket, create_id: id });
        }
        let ticket = self.ticket(Ticket::Act(status, answer));
        if let Some(action) = action {
            self.input(Input::Power { ticket, create_id: id, action });
        }
    }

    fn wait_for_destroyed(&mut self, id: CreateId, answer: Answer<VmView>) {
        let Some(last) = self.core.requestor().rental(id).map(|rental| self.vm_view(rental)) else { return };
        let until = Until { id, status: VmStatus::Destroyed, acted: true, last };
        self.waits.push(Waiting { answer, wants: until });
    }

    pub(super) fn wait(&mut self, vm: &str, status: VmStatus, answer: Answer<VmView>) {
        match self.find(vm).map(|rental| rental.create_id) {
            Ok(id) => self.wait_for(id, status, false, answer),
            Err(fault) => reply(answer, Err(fault)),
        }
    }

    pub(super) fn wait_for(&mut self, id: CreateId, status: VmStatus, acted: bool, answer: Answer<VmView>) {
        let Some(last) = self.core.requestor().rental(id).map(|rental| self.vm_view(rental)) else {
            return reply(answer, Err(Fault::new(ErrorCode::NoSuchVm, "the VM is gone")));
        };
        self.waits.retain(|waiting| !waiting.answer.is_closed());
        if self.waits.len() >= MAX_WATCHERS {
            return reply(answer, Err(Fault::new(ErrorCode::TooManyRequests, "too many commands wait for a VM")));
        }
        self.waits.push(Waiting { answer, wants: Until { id, status, acted, last: last.clone() } });
        self.answer_waits(id, Some(&last));
    }

    /// What somebody waits for may come about without a word from here: a guest that its user has shut down.
    pub(super) fn refresh_waited(&mut self) {
        self.waits.retain(|waiting| !waiting.answer.is_closed());
        let waited: BTreeSet<CreateId> = self.waits.iter().map(|waiting| waiting.wants.id).take(REFRESHED).collect();
        waited.into_iter().for_each(|id| self.input(Input::Refresh(id)));
    }

    pub(super) fn answer_waits(&mut self, id: CreateId, view: Option<&VmView>) {
        let (concerned, others): (Vec<_>, Vec<_>) = self.waits.drain(..).partition(|waiting| waiting.wants.id == id);
        self.waits = others;
        for waiting in concerned {
            match waiting.wants.outcome(view) {
                Some(result) => reply(waiting.answer, result),
                None => self.waits.push(waiting),
            }
        }
    }
}

impl Until {
    fn outcome(&self, view: Option<&VmView>) -> Option<Result<VmView, Fault>> {
        let Some(view) = view else {
            let gone = VmView { status: VmStatus::Destroyed, ..self.last.clone() };
            return Some(if self.status == VmStatus::Destroyed {
                Ok(gone)
            } else {
                Err(Fault::new(ErrorCode::NoSuchVm, format!("'{}' was destroyed meanwhile", gone.name)))
            });
        };
        // What could not be done may leave it where it was to be.
        let in_vain = self.acted && view.error.is_some();
        if view.status == self.status && !in_vain {
            return Some(Ok(view.clone()));
        }
        if self.status == VmStatus::Destroyed {
            let stuck = view.status_detail.as_ref().filter(|_| self.acted && view.status == VmStatus::Destroying)?;
            let fault = Fault::new(ErrorCode::Unreachable, format!("'{}' is not destroyed yet: {stuck}", view.name));
            return Some(Err(fault.hint("nothing is lost: 'golemnode vm list' shows it until it is gone")));
        }
        let failed = view.status == VmStatus::Failed || in_vain;
        failed.then(|| Err(view.error.clone().unwrap_or_else(|| Fault::internal("the VM failed"))))
    }
}

/// What it is to have.
fn scaled(rental: &Rental, body: &VmActionBody) -> Result<Resources, Fault> {
    let now = rental.resources();
    let to = Resources {
        cpus: body.cpus.unwrap_or(now.cpus),
        memory_mib: body.memory_mib.unwrap_or(now.memory_mib),
        disk_gib: body.disk_gib.unwrap_or(now.disk_gib),
    };
    if to.disk_gib < now.disk_gib {
        let fault = Fault::invalid(format!("a disk never shrinks, and that of '{}' has {}", rental.name, now.disk_gib));
        return Err(fault.hint("leave --disk out, or rent a smaller one and copy what matters"));
    }
    to.check()
}

/// Where it stands again when it has been scaled.
fn at_rest(rental: &Rental) -> VmStatus {
    match rental.status.as_ref().map(|status| status.vm) {
        Some(VmPhase::Stopped) => VmStatus::Stopped,
        _ => VmStatus::Running,
    }
}
