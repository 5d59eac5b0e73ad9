//! Another size for a VM. Until it has it, what it has and what it will have are both let: whatever becomes of it,
//! nothing is sold twice.
//!
//! ```text
//! asked ─▶ fits beside what is let ─▶ both reserved ─▶ (off) ─▶ resized ─▶ (on) ─▶ the new one is let
//!              │ no: RES_002                              └── cannot be started: as it was ─▶ the old one is let
//! ```
use super::metering::keys_of;
use super::{Offering, Provider, put};
use crate::core::{Ctx, EventKind, Severity, StoreOp};
use crate::identity::PeerId;
use crate::job::{JobId, JobKind};
use crate::ledger::LeaseRow;
use crate::message::{PowerAction, Response, VmPhase};
use crate::names::{ActId, LeaseId};
use crate::refusal::Refusal;
use crate::units::Resources;

impl Provider {
    pub(super) fn scale(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        lease_id: LeaseId,
        act: ActId,
        to: Resources,
    ) -> Result<Response, Refusal> {
        let row = self.ledger.owned(from, lease_id)?;
        to.check().map_err(|fault| Refusal::Malformed(fault.message))?;
        if row.scaling.is_none() && row.spec.resources == to {
            return Ok(Response::Status(row.status()));
        }
        // Of one of which nobody knows, the disk may have been grown already.
        let disk = row.takes().disk_gib;
        if to.disk_gib < disk {
            return Err(Refusal::Unsuitable(format!("a disk never shrinks, and this has {disk}")));
        }
        if !to.fits_in(row.takes()) {
            self.may_grow(ctx, from, row, to)?;
        }
        let row = self.ledger.owned_mut(from, lease_id)?;
        let before = std::mem::replace(&mut row.vm, VmPhase::Stopping);
        row.scaling = Some(row.takes().or_more(to));
        row.fault = None;
        row.unused_until = None;
        row.acted(act);
        row.touch();
        let (mut ops, status) = (vec![put(row)], row.status());
        let job = JobKind::Power(PowerAction::Scale(to));
        ops.extend(self.jobs.order(ctx.now, lease_id, job, Some(act), before));
        ctx.persist(ops);
        Ok(Response::Status(status))
    }

    /// As for a VM that is rented anew; what this one has already counts as free.
    fn may_grow(&self, ctx: &Ctx, from: PeerId, row: &LeaseRow, to: Resources) -> Result<(), Refusal> {
        if self.draining || !matches!(self.offering, Offering::Vms(_)) {
            return Err(Refusal::NotProviding);
        }
        if let Some(tier) = self.quotas.of(from, &ctx.revoked.predecessors(from)) {
            self.ledger.may_grow_in_tier(ctx.now, &keys_of(ctx, from), tier, row, to)?;
        }
        self.ledger.may_grow(ctx.now, row, to)
    }

    /// It has its new size: what it had besides may be let again. Nothing where the job was another one.
    pub(super) fn scaled(&mut self, ctx: &mut Ctx, job: JobId) -> Vec<StoreOp> {
        let job = self.jobs.get(job).and_then(|job| Some((job.lease_id, job.kind.scales_to()?)));
        let Some((lease_id, to)) = job else { return Vec::new() };
        let Some(row) = self.ledger.row_mut(lease_id).filter(|row| row.scaling.is_some()) else { return Vec::new() };
        row.scaling = None;
        row.spec.resources = to;
        row.touch();
        let op = put(row);
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has {to} now"), None);
        vec![op]
    }

    /// It has not, and this is what it has. Where it is tried again, or nobody knows, both sizes stay let.
    pub(super) fn not_scaled(&mut self, lease_id: LeaseId, has: Resources, given_up: bool) -> Option<StoreOp> {
        let row = self.ledger.row_mut(lease_id).filter(|row| row.scaling.is_some())?;
        row.spec.resources = has;
        row.scaling = row.scaling.filter(|_| !given_up).map(|both| both.or_more(has));
        row.touch();
        Some(put(row))
    }
}
