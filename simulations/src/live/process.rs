//! What this process uses.
use protocol::Fault;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Memory that is really there, in bytes.
    pub rss: u64,
    /// Of all threads since the process began.
    pub cpu: Duration,
}

impl Usage {
    pub fn now() -> Result<Self, Fault> {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32);
        Ok(Usage { rss: kib("/proc/self/status", "VmRSS:")? << 10, cpu })
    }
}

/// Memory that could be used without harm to others, in bytes.
pub fn available() -> Result<u64, Fault> {
    Ok(kib("/proc/meminfo", "MemAvailable:")? << 10)
}

fn kib(file: &str, what: &str) -> Result<u64, Fault> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Fault::internal(format!("memory is measured on Linux only: cannot read {file}: {error}")))?;
    let number = text.lines().find_map(|line| line.strip_prefix(what)?.trim().strip_suffix("kB")?.trim().parse().ok());
    number.ok_or_else(|| Fault::internal(format!("{file} has no {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_show() {
        let before = Usage::now().unwrap();
        let memory = vec![1u8; 64 << 20];
        let sum: u64 = memory.iter().map(|byte| u64::from(*byte)).sum();
        let after = Usage::now().unwrap();
        assert_eq!(sum, 64 << 20);
        assert!(after.cpu > before.cpu && after.rss > before.rss + (32 << 20), "{before:?} {after:?}");
        assert!(available().unwrap() > 0);
    }
}
