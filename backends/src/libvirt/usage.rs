//! What the VMs use, as libvirt's own statistics say.
use super::domain::OVERLAY;
use super::{Host, unavailable, xml};
use crate::{Measured, VmUsage};
use protocol::Fault;
use protocol::names::LeaseId;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::Duration;
use virt::domain::Domain;
use virt::sys;

/// `stat` counts in these, whatever the file system's own.
const BLOCK: u64 = 512;

impl Host {
    pub(super) fn measure(&self) -> Result<Measured, Fault> {
        // The test driver's host is not this one.
        let host =
            (!self.connection.is_simulated()).then(|| self.meter.lock().unwrap_or_else(PoisonError::into_inner).look());
        let active = sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE;
        let domains = self.connection.get()?.list_all_domains(active).map_err(|error| unavailable(&error))?;
        let ours = domains.iter().filter(|domain| self.is_ours(domain));
        let named = ours.filter_map(|domain| Some((domain.name().ok().as_deref().and_then(xml::id_of)?, domain)));
        Ok(Measured { host, vms: named.filter_map(|(id, domain)| self.usage(id, domain)).collect() })
    }

    /// None when it has just gone.
    fn usage(&self, id: LeaseId, domain: &Domain) -> Option<VmUsage> {
        let info = domain.info().ok()?;
        // QEMU answers these itself: one that is being worked on is not asked, so that nobody waits for the other.
        let asked = !self.turns.is_busy(id);
        let resident = || {
            let stats = domain.memory_stats(0).ok()?;
            stats.iter().find(|stat| stat.tag == sys::VIR_DOMAIN_MEMORY_STAT_RSS).map(|stat| stat.val * 1024)
        };
        let io = if asked { domain.block_stats(xml::DISK).ok() } else { None };
        let bytes = |count: i64| u64::try_from(count).ok();
        let disk = std::fs::metadata(self.folder(id).join(OVERLAY));
        Some(VmUsage {
            id,
            cpu_time: Duration::from_nanos(info.cpu_time),
            memory_bytes: if asked { resident() } else { None },
            disk_bytes: disk.map_or(0, |file| file.blocks() * BLOCK),
            disk_read_bytes: io.as_ref().and_then(|io| bytes(io.rd_bytes)),
            disk_written_bytes: io.as_ref().and_then(|io| bytes(io.wr_bytes)),
        })
    }
}
