//! The provider's regular looks: at what the host offers, and at whether the hypervisor has what the ledger says.
use super::{Actor, Internal};
use crate::api::types::{HostView, JobView, ProviderReport, QuotaView, VmUsageView};
use crate::clock;
use crate::provider::worker;
use backends::Measured;
use protocol::core::provider::{Offering, may_cancel};
use protocol::core::{Event, EventKind, Input, Severity};
use protocol::job::{JobId, JobRow};
use protocol::quota::Tier;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault, PeerId};
use std::collections::BTreeSet;
use std::time::Duration;

impl Actor {
    /// Asks the host what it has, without waiting here: a hypervisor may take its time.
    pub(super) fn survey(&self) {
        let Some(provider) = self.provider.clone() else { return };
        let rows = self.core.provider().ledger().leases().filter(|row| row.counts());
        let let_out = rows.map(|row| row.takes()).fold(Resources::default(), Resources::plus);
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let offering = provider.survey(let_out).await;
            // Only a stopping node takes nothing more.
            let _ = internal.send(Internal::Offering(offering)).await;
        });
    }

    /// A host that is too busy offers nothing, whatever it has.
    pub(super) fn surveyed(&mut self, offering: Offering) {
        let offering = match (offering, self.room.is_little(), self.too_busy.clone()) {
            (_, Some(reason), _) => Offering::NoRoom { reason },
            (Offering::Vms(_), None, Some(reason)) => Offering::Nothing { reason },
            (offering, ..) => offering,
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

    pub(super) fn say_if_clock_is_doubted(&self) {
        let Some(why) = clock::doubted() else { return };
        let (kind, severity) = (EventKind::System, Severity::Warning);
        self.record(Event { kind, severity, message: why, subject: None, code: None });
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

    /// The newest last.
    pub(super) fn job_views(&self) -> Result<Vec<JobView>, Fault> {
        self.must_provide()?;
        Ok(self.core.provider().jobs().rows().map(job_view).collect())
    }
    pub(super) fn job_view(&self, id: JobId) -> Result<JobView, Fault> {
        self.must_provide()?;
        let job = self.core.provider().jobs().get(id).map(job_view);
        job.ok_or_else(|| {
            Fault::new(ErrorCode::NoSuchResource, format!("there is no job {id}"))
                .hint("'golemnode job list' shows those of the last day")
        })
    }
    pub(super) fn cancel_job(&mut self, id: JobId) -> Result<JobView, Fault> {
        self.job_view(id)?;
        self.core.provider().jobs().get(id).map_or(Ok(()), may_cancel)?;
        self.input(Input::CancelJob(id));
        self.job_view(id)
    }

    pub(super) fn must_provide(&self) -> Result<(), Fault> {
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

    /// Asks the hypervisor what it has; the core holds it against the ledger. One that hangs is not asked again and again.
    pub(super) fn take_inventory(&self) {
        let Some(provider) = self.provider.clone() else { return };
        let Ok(alone) = self.looking.clone().try_lock_owned() else { return };
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let _alone = alone;
            match provider.backend.list().await {
                Ok(instances) => {
                    let found = instances.iter().map(worker::found).collect();
                    let _ = internal.send(Internal::Inventory(found)).await;
                }
                Err(fault) => tracing::warn!(%fault, "the hypervisor does not list its VMs"),
            }
        });
    }
}

fn job_view(job: &JobRow) -> JobView {
    JobView {
        id: job.id.0,
        lease_id: job.lease_id,
        kind: job.kind.word().to_owned(),
        state: job.state.word().to_owned(),
        failed_tries: job.tries,
        created_at: clock::rfc3339(job.created),
        ended_at: job.state.is_over().then(|| clock::rfc3339(job.ended)),
        fault: job.fault.clone(),
    }
}

/// More digits than that are noise.
fn tenths(percent: f32) -> f64 {
    (f64::from(percent) * 10.0).round() / 10.0
}
