//! The provider's regular looks: at what the host offers, and at whether the hypervisor has what the ledger says.
use super::{Actor, Internal};
use crate::provider::worker;
use backends::{Instance, PowerState};
use protocol::core::{Event, EventKind, Input, Severity, VmReport};
use protocol::message::{LeaseStage, VmPhase};
use protocol::names::LeaseId;
use protocol::units::Resources;
use std::collections::{BTreeMap, BTreeSet};

/// Leases whose guest was seen off once. One reading may be stale (the first after a start, or one taken while a worker
/// was at it): two must agree.
#[derive(Default)]
pub(super) struct SeenOff(BTreeSet<LeaseId>);

impl SeenOff {
    /// A lease that the ledger has forgotten is never looked at again.
    fn keep(&mut self, in_ledger: impl Fn(&LeaseId) -> bool) {
        self.0.retain(in_ledger);
    }
    /// As the ledger has it.
    fn agrees(&mut self, lease_id: LeaseId) {
        self.0.remove(&lease_id);
    }
    /// Not as the ledger has it. True at the second time, and then it starts anew.
    fn differs(&mut self, lease_id: LeaseId) -> bool {
        let second = !self.0.insert(lease_id);
        if second {
            self.0.remove(&lease_id);
        }
        second
    }
}

impl Actor {
    /// Asks the host what it has, without waiting here: a hypervisor may take its time.
    pub(super) fn survey(&self) {
        let Some(provider) = self.provider.clone() else { return };
        let rows = self.core.provider().ledger().leases().filter(|row| row.counts());
        let let_out = rows.map(|row| row.spec.resources).fold(Resources::default(), Resources::plus);
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let offering = provider.survey(let_out).await;
            // Only a stopping node takes nothing more.
            let _ = internal.send(Internal::Offering(offering)).await;
        });
    }

    pub(super) fn take_inventory(&mut self) {
        if let Some(workers) = &mut self.workers {
            workers.sweep();
        }
        let Some(provider) = self.provider.clone() else { return };
        let internal = self.internal.clone();
        tokio::spawn(async move {
            match provider.backend.list().await {
                Ok(instances) => {
                    let _ = internal.send(Internal::Inventory(instances)).await;
                }
                Err(fault) => tracing::warn!(%fault, "the hypervisor does not list its VMs"),
            }
        });
    }

    /// Mends the differences between ledger and hypervisor. What a worker is busy with is no difference yet.
    pub(super) fn reconcile(&mut self, instances: Vec<Instance>) {
        let mut there: BTreeMap<LeaseId, PowerState> =
            instances.into_iter().map(|instance| (instance.id, instance.state)).collect();
        let rows: Vec<(LeaseId, LeaseStage, VmPhase)> =
            self.core.provider().ledger().leases().map(|row| (row.lease_id, row.stage, row.vm)).collect();
        self.seen_off.keep(|lease_id| self.core.provider().ledger().lease(*lease_id).is_some());
        for (lease_id, stage, phase) in rows {
            let state = there.remove(&lease_id);
            if self.workers.as_ref().is_none_or(|workers| workers.is_busy(lease_id)) {
                continue;
            }
            match (stage, phase, state) {
                (LeaseStage::Provisional, ..) => {}
                (LeaseStage::Ended, _, Some(_)) => self.remove(lease_id),
                (LeaseStage::Ended, ..) => {}
                (_, VmPhase::Running | VmPhase::Stopped, state) => self.note_power(lease_id, phase, state),
                _ => {}
            }
        }
        // What nobody has leased: left by a run whose ledger is gone, or by a lease long ended.
        for (lease_id, _) in there {
            if self.workers.as_ref().is_some_and(|workers| !workers.is_busy(lease_id)) {
                self.record(Event {
                    kind: EventKind::Vm,
                    severity: Severity::Warning,
                    message: format!("removing VM {lease_id}, which no lease names"),
                    subject: None,
                    code: None,
                });
                self.remove(lease_id);
            }
        }
    }

    fn remove(&mut self, lease_id: LeaseId) {
        if let Some(workers) = &mut self.workers {
            workers.destroy(lease_id);
        }
    }

    /// A guest that went off, came up or vanished by itself.
    fn note_power(&mut self, lease_id: LeaseId, known: VmPhase, state: Option<PowerState>) {
        let report = match state.as_ref().map(worker::phase_of) {
            Some(now) if now == known => return self.seen_off.agrees(lease_id),
            Some(now) => VmReport::Phase(now),
            None => VmReport::Phase(VmPhase::Gone),
        };
        if self.seen_off.differs(lease_id) {
            self.input(Input::Vm { lease_id, report });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_must_agree_and_what_the_ledger_forgot_is_forgotten() {
        let (mut seen, [one, two]) = (SeenOff::default(), [1, 2].map(|n| LeaseId([n; 16])));
        assert!(!seen.differs(one) && seen.differs(one), "the second look decides");
        assert!(!seen.differs(one), "and then it starts anew");
        seen.agrees(one);
        assert!(!seen.differs(one) && !seen.differs(two));
        seen.keep(|lease_id| *lease_id == two);
        assert_eq!(seen.0, BTreeSet::from([two]));
        assert!(seen.differs(two));
    }
}
