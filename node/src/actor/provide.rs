//! The provider's regular looks: at what the host offers, and at whether the hypervisor has what the ledger says.
use super::{Actor, Internal};
use crate::api::types::{HostView, ProviderReport, QuotaView, VmUsageView};
use crate::provider::worker;
use backends::{Instance, Measured, PowerState};
use protocol::core::provider::Offering;
use protocol::core::{Event, EventKind, Input, Severity, VmReport};
use protocol::message::{LeaseStage, VmPhase};
use protocol::names::LeaseId;
use protocol::quota::Tier;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

    /// A host that is too busy offers nothing, whatever it has.
    pub(super) fn surveyed(&mut self, offering: Offering) {
        let offering = match (offering, self.too_busy.clone()) {
            (Offering::Vms(_), Some(reason)) => Offering::Nothing { reason },
            (offering, _) => offering,
        };
        self.input(Input::Offer(offering));
    }

    /// Looks how busy the host is. A hypervisor that hangs is not asked again and again.
    pub(super) fn measure(&self) {
        let Some(provider) = self.provider.clone() else { return };
        let Ok(alone) = self.measuring.clone().try_lock_owned() else { return };
        let (internal, began) = (self.internal.clone(), self.started);
        tokio::spawn(async move {
            let _alone = alone;
            match provider.backend.measure().await {
                Ok(measured) => {
                    let _ = internal.send(Internal::Measured(began.elapsed(), measured)).await;
                }
                Err(fault) => tracing::warn!(%fault, "the hypervisor does not say what its VMs use"),
            }
        });
    }

    pub(super) fn measured(&mut self, at: Duration, measured: Measured) {
        self.monitor.looked(at, measured);
        let was = std::mem::replace(&mut self.too_busy, self.monitor.too_busy()).is_some();
        if was == self.too_busy.is_some() {
            return;
        }
        let (severity, message) = match &self.too_busy {
            Some(why) => (Severity::Warning, format!("nothing new is let for now: {why}")),
            None => (Severity::Info, "the host is no longer too busy to let VMs".to_owned()),
        };
        self.record(Event { kind: EventKind::System, severity, message, subject: None, code: None });
        self.survey();
    }

    /// Whether the operator wants new work; leases and guests go on either way.
    pub(super) fn set_draining(&mut self, draining: bool) -> Result<ProviderReport, Fault> {
        let was = self.provider_report()?.draining;
        self.store.keep_draining(draining)?;
        self.input(if draining { Input::Drain } else { Input::Undrain });
        if was != draining {
            let message = if draining { "draining: nothing new is let" } else { "new VMs are let again" }.to_owned();
            let severity = Severity::Info;
            self.record(Event { kind: EventKind::System, severity, message, subject: None, code: None });
        }
        self.provider_report()
    }

    /// Those that have a tier or VMs, or the one that is asked for.
    pub(super) fn quota_views(&self, of: Option<PeerId>) -> Result<Vec<QuotaView>, Fault> {
        self.must_provide()?;
        let provider = self.core.provider();
        let renting = provider.ledger().leases().filter(|row| row.counts()).map(|row| row.requestor);
        let all = || provider.quotas().iter().map(|(peer, _)| peer).chain(renting).collect::<BTreeSet<_>>();
        let peers = of.map_or_else(all, |peer| BTreeSet::from([peer]));
        let view = |peer: PeerId| {
            let mut keys = self.core.revoked().predecessors(peer);
            let tier = provider.quotas().of(peer, &keys);
            keys.push(peer);
            QuotaView { peer_id: peer, tier, limits: tier.map(Tier::quota), used: provider.ledger().usage_of(&keys) }
        };
        Ok(peers.into_iter().map(view).collect())
    }

    pub(super) fn set_quota(&mut self, peer: PeerId, tier: Option<Tier>) -> Result<QuotaView, Fault> {
        self.must_provide()?;
        self.input(Input::SetQuota { peer, tier });
        let view = self.quota_views(Some(peer))?.remove(0);
        if tier.is_some() && view.tier != tier {
            return Err(Fault::new(ErrorCode::Quota, "no more peers can be given a tier")
                .hint("'golemnode quota set PEER --tier none' takes one back"));
        }
        Ok(view)
    }

    fn must_provide(&self) -> Result<(), Fault> {
        self.provider.as_ref().map(drop).ok_or_else(|| {
            Fault::new(ErrorCode::Unavailable, "this node does not provide").hint("'golemnode node run --provide' does")
        })
    }

    pub(super) fn provider_report(&self) -> Result<ProviderReport, Fault> {
        self.must_provide()?;
        let status = self.provider_status().ok_or_else(|| Fault::internal("a provider without a status"))?;
        let provider = self.core.provider();
        let (load, rates, thresholds) =
            (self.monitor.load(), self.monitor.rates().unwrap_or_default(), self.monitor.thresholds());
        let host = load.zip(self.monitor.host()).map(|(load, host)| HostView {
            cpus: host.cpus,
            cpu_percent: load.cpu.map(tenths),
            guests_cpu_percent: tenths(load.own_guests),
            memory_percent: tenths(load.memory),
            memory_bytes: host.memory.total_bytes,
            swap_percent: tenths(load.swap),
            swap_bytes: host.swap.total_bytes,
            disk_percent: tenths(load.disk),
            disk_bytes: host.disk.total_bytes,
            disk_read_per_s: rates.disk_read as u64,
            disk_written_per_s: rates.disk_written as u64,
            net_received_per_s: rates.net_received as u64,
            net_sent_per_s: rates.net_sent as u64,
        });
        let vms = self.monitor.vms().iter().map(|vm| VmUsageView {
            lease_id: vm.id,
            cpu_s: vm.cpu_time.as_secs(),
            memory_bytes: vm.memory_bytes,
            disk_bytes: vm.disk_bytes,
            disk_read_bytes: vm.disk_read_bytes,
            disk_written_bytes: vm.disk_written_bytes,
        });
        Ok(ProviderReport {
            status,
            draining: provider.is_draining(),
            cpu_threshold: thresholds.cpu,
            memory_threshold: thresholds.memory,
            disk_threshold: thresholds.disk,
            host,
            vms: vms.collect(),
        })
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

/// More digits than that are noise.
fn tenths(percent: f32) -> f64 {
    (f64::from(percent) * 10.0).round() / 10.0
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
