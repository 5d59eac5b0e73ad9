//! What a host and its VMs use. Counters only grow: who looks twice has the rate.
use protocol::names::LeaseId;
use serde::Serialize;
use std::time::Duration;

/// What a backend can measure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// None where the VMs do not run on this machine, or on none.
    pub host: Option<HostLoad>,
    /// Those that run.
    pub vms: Vec<VmUsage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HostLoad {
    pub cpus: u32,
    /// How busy all of them were together since the last look, guests included.
    pub cpu_percent: f32,
    pub memory: Room,
    pub swap: Room,
    /// The file system of the home.
    pub disk: Room,
    /// Of the device under it, since the host was booted.
    pub disk_read_bytes: u64,
    pub disk_written_bytes: u64,
    /// Of all interfaces but loopback, since the host was booted.
    pub net_received_bytes: u64,
    pub net_sent_bytes: u64,
}

/// How much there is, and how much of it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Room {
    pub total_bytes: u64,
    pub used_bytes: u64,
}

impl Room {
    /// Nothing is never full.
    pub fn percent(self) -> f32 {
        if self.total_bytes == 0 { 0.0 } else { (self.used_bytes as f64 / self.total_bytes as f64 * 100.0) as f32 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmUsage {
    pub id: LeaseId,
    /// Of the host's processors, since the VM was started.
    pub cpu_time: Duration,
    /// Of the host's memory.
    pub memory_bytes: Option<u64>,
    /// Of the host's disk: what the guest has written takes room, what it may write does not.
    pub disk_bytes: u64,
    /// Since the VM was started.
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
}

#[cfg(feature = "libvirt")]
pub(crate) use meter::HostMeter;

#[cfg(feature = "libvirt")]
mod meter {
    use super::*;
    use std::path::PathBuf;
    use sysinfo::{DiskRefreshKind, Disks, Networks, System};

    /// Measures the machine that this process runs on.
    pub(crate) struct HostMeter {
        home: PathBuf,
        system: System,
        disks: Disks,
        networks: Networks,
    }

    impl HostMeter {
        pub fn new(home: PathBuf) -> Self {
            HostMeter { home, system: System::new(), disks: Disks::new(), networks: Networks::new() }
        }

        /// The first look has no CPU usage: there is nothing to compare with.
        pub fn look(&mut self) -> HostLoad {
            self.system.refresh_cpu_usage();
            self.system.refresh_memory();
            self.networks.refresh(true);
            // How full they are is not asked: a server that does not answer would hold us up.
            self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_io_usage());
            let (read, written) = self.disk_io();
            let outside = || self.networks.iter().filter(|(name, _)| *name != "lo").map(|(_, data)| data);
            let memory = self.system.total_memory();
            HostLoad {
                cpus: self.system.cpus().len() as u32,
                cpu_percent: self.system.global_cpu_usage(),
                memory: Room { total_bytes: memory, used_bytes: memory.saturating_sub(self.system.available_memory()) },
                swap: Room { total_bytes: self.system.total_swap(), used_bytes: self.system.used_swap() },
                disk: self.disk_room(),
                disk_read_bytes: read,
                disk_written_bytes: written,
                net_received_bytes: outside().map(|data| data.total_received()).sum(),
                net_sent_bytes: outside().map(|data| data.total_transmitted()).sum(),
            }
        }

        /// As `df` counts: what only root may use is no room.
        fn disk_room(&self) -> Room {
            let Ok(disk) = rustix::fs::statvfs(&self.home) else { return Room::default() };
            let used = disk.f_blocks.saturating_sub(disk.f_bfree);
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
            Room { total_bytes: bytes(used.saturating_add(disk.f_bavail)), used_bytes: bytes(used) }
        }

        /// Of the device that the home lies on.
        fn disk_io(&self) -> (u64, u64) {
            let home = self.home.canonicalize().unwrap_or_else(|_| self.home.clone());
            let under = self.disks.iter().filter(|disk| home.starts_with(disk.mount_point()));
            let device = under.max_by_key(|disk| disk.mount_point().as_os_str().len());
            device.map(|disk| disk.usage()).map_or((0, 0), |used| (used.total_read_bytes, used.total_written_bytes))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn this_machine_has_processors_memory_and_a_disk() {
            let dir = tempfile::tempdir().unwrap();
            let mut meter = HostMeter::new(dir.path().to_owned());
            let first = meter.look();
            // Work between two looks shows.
            let begun = std::time::Instant::now();
            while begun.elapsed() < sysinfo::MINIMUM_CPU_UPDATE_INTERVAL + Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            let load = meter.look();
            // A process may be kept to fewer than there are.
            assert!(load.cpus as usize >= std::thread::available_parallelism().unwrap().get(), "{load:?}");
            assert!(load.cpu_percent > 1.0 && load.cpu_percent <= 100.5, "{load:?}");
            for room in [load.memory, load.disk] {
                assert!(room.used_bytes > 0 && room.used_bytes <= room.total_bytes, "{load:?}");
            }
            assert!(load.disk_written_bytes >= first.disk_written_bytes && load.net_sent_bytes >= first.net_sent_bytes);
        }
    }
}
