//! What one guest may take of its host beside the CPUs, the memory and the disk of its lease, and who goes first where
//! it takes all of its CPUs.
use rustix::process::{Pid, setpriority_process};
use std::fs;
use std::path::Path;

/// For each guest, and the same for all: the lease says nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Read and written, together.
    pub disk_mib_per_s: u32,
    pub disk_iops: u32,
    /// What the guest sends out of the host, and as much that it takes in. Its owner's tunnels are not counted.
    pub egress_mbit_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // A tenth of one NVMe disk, and more than a whole one that turns.
        Limits { disk_mib_per_s: 100, disk_iops: 2000, egress_mbit_per_s: 100 }
    }
}

/// A guest that boots or installs something may take so many times its share of the disk,
pub const BURST: u32 = 4;
/// seconds long; after that it has to earn the next.
pub const BURST_SECONDS: u32 = 10;
/// Room for code that TCG has translated. QEMU would take up to 1 GiB beside the guest's memory, for a guest that runs
/// ever new code; this much is translated again at times, and nobody notices.
pub const TRANSLATED_MIB: u32 = 128;
/// A guest's processors come after the node and the rest of the host, by a third of their weight. With a tenth (nice 10) a
/// guest beside a busy compiler took over 90 s to boot.
pub const NICE: i32 = 5;
/// Where the host has no memory left it takes that of a guest before the node's.
pub const OOM_SCORE: u32 = 300;

/// To be called once QEMU has its threads: later ones inherit it. What the host does not let us do is left.
pub fn come_last(pid: u32) {
    let process = Path::new("/proc").join(pid.to_string());
    // Linux weighs threads, and those of one session against one another only where it groups sessions.
    for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
        let number = thread.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(Err(error)) = number.map(|number| setpriority_process(Some(number), NICE)) {
            tracing::debug!(pid, %error, "a thread of a guest keeps its priority");
        }
    }
    for (file, value) in [("autogroup", NICE.to_string()), ("oom_score_adj", OOM_SCORE.to_string())] {
        if let Err(error) = fs::write(process.join(file), value) {
            tracing::debug!(pid, %error, file, "not set for a guest");
        }
    }
}
