//! The ledger held against what the hypervisor has: every difference is mended, and said in an event. What a job is
//! busy with is no difference yet.
use super::Provider;
use super::tenancy::is_on;
use crate::core::{Ctx, EventKind, Severity};
use crate::job::{Found, FoundState, JobKind};
use crate::lease::Quote;
use crate::ledger::LeaseRow;
use crate::message::{LeaseStage, PowerAction, VmPhase};
use crate::names::{Isolation, LeaseId, Network};
use crate::units::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// So long after the first look a guest that should run and does not is taken for one whose host was rebooted.
const FRESH: Millis = Millis::secs(10);
/// Between the two looks that decide, at the least.
const APART: Millis = Millis(800);
/// Looks that come one soon after the other when a process has started: a hypervisor's first answer may be stale.
const FIRST: u32 = 3;

/// One look may be stale (the first after a start, or one taken while a job was at it): two must agree.
#[derive(Default)]
pub(super) struct Looks {
    /// Not as the ledger has it, at each look since then.
    differed: BTreeMap<LeaseId, Timestamp>,
    /// Since the process started.
    taken: u32,
    fresh_until: Option<Timestamp>,
}

impl Looks {
    pub(super) fn clock_set_back(&mut self, by: Millis) {
        for since in self.differed.values_mut() {
            *since = since.set_back(by);
        }
        self.fresh_until = self.fresh_until.map(|until| until.set_back(by));
    }
}

/// What is amiss with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// Nobody leases it: left by a run whose ledger is gone.
    Orphan,
    /// Its lease has ended.
    Outlived,
    /// Its lease has expired.
    RunsOn,
    /// It was being changed, and nothing is under way.
    HalfDone,
    /// It should run, and the host has been rebooted (or has forgotten it, if it is a simulated one).
    Rebooted,
    /// It went off, came up or vanished by itself.
    Is(VmPhase),
}

impl Provider {
    /// Whether the next look should come soon.
    pub fn is_unsure(&self) -> bool {
        self.looks.taken < FIRST || !self.looks.differed.is_empty()
    }

    pub fn reconcile(&mut self, ctx: &mut Ctx, found: &[Found]) {
        self.looks.taken = self.looks.taken.saturating_add(1);
        self.meters_seen(ctx, found);
        let fresh = ctx.now < *self.looks.fresh_until.get_or_insert(ctx.now + FRESH);
        let there: BTreeMap<LeaseId, FoundState> = found.iter().map(|found| (found.lease_id, found.state)).collect();
        let leased = self.ledger.leases().map(|row| row.lease_id);
        let all: BTreeSet<LeaseId> = leased.chain(there.keys().copied()).collect();
        // Where something is under way, it says itself what comes of it.
        let busy: BTreeSet<LeaseId> = self.jobs.active().map(|row| row.lease_id).collect();
        let differ: Vec<(LeaseId, Difference)> = all
            .difference(&busy)
            .copied()
            .filter_map(|id| Some((id, self.difference(ctx.network, fresh, id, there.get(&id).copied())?)))
            .collect();
        let before = std::mem::take(&mut self.looks.differed);
        for (lease_id, difference) in differ {
            let since = before.get(&lease_id).copied().unwrap_or(ctx.now);
            if since + APART <= ctx.now {
                self.mend(ctx, lease_id, difference);
            } else {
                self.looks.differed.insert(lease_id, since);
            }
        }
        self.answer_watchers(ctx);
    }

    fn difference(
        &self,
        network: &Network,
        fresh: bool,
        lease_id: LeaseId,
        there: Option<FoundState>,
    ) -> Option<Difference> {
        let Some(row) = self.ledger.lease(lease_id) else { return there.map(|_| Difference::Orphan) };
        let settled = matches!(row.vm, VmPhase::Running | VmPhase::Stopped | VmPhase::Suspended);
        let now = there.map_or(VmPhase::Gone, FoundState::phase);
        match row.stage {
            LeaseStage::Provisional => there.map(|_| Difference::Outlived),
            LeaseStage::Ended => there.map(|_| Difference::Outlived),
            LeaseStage::Expired if is_on(now) => Some(Difference::RunsOn),
            LeaseStage::Active | LeaseStage::Expired if row.vm == VmPhase::Failed => None,
            LeaseStage::Expired if !settled => Some(Difference::Is(now)),
            LeaseStage::Active if !settled => Some(Difference::HalfDone),
            LeaseStage::Active | LeaseStage::Expired if now == row.vm => None,
            LeaseStage::Active if fresh && row.wants_power && now == VmPhase::Stopped => Some(Difference::Rebooted),
            // There was no disk that could be lost.
            LeaseStage::Active if fresh && row.wants_power && now == VmPhase::Gone && is_simulated(network, row) => {
                Some(Difference::Rebooted)
            }
            LeaseStage::Active | LeaseStage::Expired => Some(Difference::Is(now)),
        }
    }

    fn mend(&mut self, ctx: &mut Ctx, lease_id: LeaseId, difference: Difference) {
        let before = self.ledger.lease(lease_id).map_or(VmPhase::Failed, |row| row.vm);
        let wants_power = self.ledger.lease(lease_id).is_some_and(|row| row.wants_power);
        let stop = JobKind::Power(PowerAction::Stop { force: true });
        let (message, job) = match difference {
            Difference::Orphan => (format!("removing VM {lease_id}, which no lease names"), JobKind::Remove),
            Difference::Outlived => {
                (format!("removing VM {lease_id}, which is there without its lease"), JobKind::Remove)
            }
            Difference::RunsOn => (format!("stopping the VM of lease {lease_id}, which has expired"), stop),
            Difference::HalfDone if wants_power => {
                (format!("the VM of lease {lease_id} was left half done: made sure of"), JobKind::Provision)
            }
            Difference::HalfDone => (format!("the VM of lease {lease_id} was left half done: stopped"), stop),
            Difference::Rebooted => {
                (format!("the VM of lease {lease_id} is off and should run: started"), JobKind::Provision)
            }
            Difference::Is(phase) => {
                let message = format!("the VM of lease {lease_id} is {} by itself", phase.word());
                ctx.event(EventKind::Vm, Severity::Info, message, None);
                return self.vm_is(ctx, lease_id, phase, Vec::new());
            }
        };
        ctx.event(EventKind::Vm, Severity::Warning, message, None);
        let mut ops = self.jobs.order(ctx.now, lease_id, job, None, before);
        if let Some(row) = self.ledger.row_mut(lease_id).filter(|_| job == JobKind::Provision) {
            row.vm = VmPhase::Provisioning(crate::message::ProvisionStep::Image);
            row.touch();
            ops.push(super::put(row));
        }
        ctx.persist(ops);
    }
}

fn is_simulated(network: &Network, row: &LeaseRow) -> bool {
    row.quote.clone().open::<Quote>(network).is_ok_and(|quote| quote.isolation == Isolation::Simulated)
}
