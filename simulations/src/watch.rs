//! A stopwatch for each guest, read by nobody but who judges the bills: it knows what the hypervisor has, and when the
//! provider's process was there to see it.
use crate::host::Vm;
use protocol::meter::SAMPLE;
use protocol::names::LeaseId;
use std::collections::BTreeMap;

/// What a death may cost beyond a sample: the next look at the hypervisor, a guest's way to its first answer.
const SLACK: u64 = 10_000;

#[derive(Default)]
struct Watched {
    ran: bool,
    /// There since it first ran, on or off.
    there: u64,
    /// On in this run of the provider's process; and in all earlier ones, less what a death may cost.
    seen: u64,
    least: u64,
}

#[derive(Default)]
pub struct Watch(BTreeMap<LeaseId, Watched>);

impl Watch {
    pub fn pass(&mut self, vms: &BTreeMap<LeaseId, Vm>, ms: u64, is_seen: bool) {
        for (id, vm) in vms {
            let watched = self.0.entry(*id).or_default();
            watched.ran |= vm.on;
            watched.there += if watched.ran { ms } else { 0 };
            watched.seen += if vm.made && vm.on && is_seen { ms } else { 0 };
        }
    }
    /// The provider's process has died.
    pub fn death(&mut self) {
        for watched in self.0.values_mut() {
            watched.least += std::mem::take(&mut watched.seen).saturating_sub(SAMPLE.0 + SLACK);
        }
    }
    /// The least and the most that may be charged, in whole seconds; none for what was never there.
    pub fn bounds(&self, lease: LeaseId) -> Option<(u64, u64)> {
        let watched = self.0.get(&lease)?;
        let least = watched.least + watched.seen.saturating_sub(SLACK);
        Some((least / 1000, watched.there.div_ceil(1000) + 1))
    }
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.0.keys().copied()
    }
}
