//! A VM that nobody uses: who has never connected to it, nor switched or renewed it, is not there. It is stopped, and
//! keeps its disk until its lease ends.
use super::{Provider, put};
use crate::core::{Ctx, EventKind, Severity, StoreOp};
use crate::error::{ErrorCode, Fault};
use crate::job::JobKind;
use crate::ledger::LeaseRow;
use crate::message::{PowerAction, VmPhase};
use crate::names::LeaseId;
use crate::units::{Millis, Timestamp};

/// It runs: from now on its tenant is waited for, unless that one was there before.
pub(super) fn begins_to_run(row: &mut LeaseRow, now: Timestamp, patience: Option<Millis>) {
    if !row.ran || row.unused_until.is_some() {
        row.unused_until = patience.map(|time| now + time);
    }
    row.ran = true;
}

impl Provider {
    /// Its tenant is there.
    pub(super) fn used(&mut self, ctx: &mut Ctx, lease_id: LeaseId) {
        if self.ledger.lease(lease_id).is_none_or(|row| row.unused_until.is_none()) {
            return;
        }
        if let Some(row) = self.ledger.row_mut(lease_id) {
            row.unused_until = None;
            let op = put(row);
            ctx.persist(vec![op]);
        }
    }

    pub(super) fn stop_unused(&mut self, ctx: &mut Ctx) {
        let now = ctx.now;
        let unused = self.ledger.leases().filter(|row| row.unused_at().is_some_and(|at| at <= now));
        let unused: Vec<(LeaseId, String)> = unused.map(|row| (row.lease_id, row.requestor.to_string())).collect();
        for (lease_id, requestor) in unused {
            let ops = self.switch_off(ctx, lease_id, never_used(), |row| row.unused_until = None);
            ctx.persist(ops);
            let message = format!("nobody has used the VM of lease {lease_id}: it is stopped");
            ctx.event(EventKind::Vm, Severity::Info, message, Some(requestor));
        }
    }

    /// Stops a VM of our own accord. Its tenant reads why, and may start it again.
    pub(super) fn switch_off(
        &mut self,
        ctx: &Ctx,
        lease_id: LeaseId,
        why: Fault,
        change: impl FnOnce(&mut LeaseRow),
    ) -> Vec<StoreOp> {
        let Some(row) = self.ledger.row_mut(lease_id) else { return Vec::new() };
        let before = row.vm;
        change(row);
        row.wants_power = false;
        row.fault = Some(why);
        let runs = before != VmPhase::Stopped;
        if runs {
            row.vm = VmPhase::Stopping;
        }
        row.touch();
        let mut ops = vec![put(row)];
        if runs {
            let stop = JobKind::Power(PowerAction::Stop { force: before == VmPhase::Suspended });
            ops.extend(self.jobs.order(ctx.now, lease_id, stop, None, before));
        }
        ops
    }
}

fn never_used() -> Fault {
    Fault::new(ErrorCode::Denied, "stopped: nobody had used it")
        .hint("'golemnode vm start' starts it again; its provider stops what its tenant never connects to")
}
