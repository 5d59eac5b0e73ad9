//! How busy the host is: the last hour, and whether it is too much to let anything more. Pure: it is told what was
//! measured, and when.
//!
//! ```text
//!             above the threshold
//!   letting ──────────────────────▶ too busy
//!      ▲                               │
//!      └───────────────────────────────┘
//!        RELIEF below it: an advert must not come and go with every look
//! ```
use crate::config::ProviderSettings;
use backends::{HostLoad, Measured, VmUsage};
use protocol::names::LeaseId;
use std::collections::VecDeque;
use std::time::Duration;

/// An hour of looks, each 5 s after the other: a look at ten VMs has about 1 KB.
const KEPT: usize = 720;
/// VMs in a look: more than a host has.
const VMS_KEPT: usize = 1024;
/// The processors are judged by their average over this: what lasts for a moment only is no reason.
const CPU_WINDOW: Duration = Duration::from_secs(60);
/// So many points below the threshold it is well again.
const RELIEF: f32 = 5.0;

/// Percent, each; 100 is never passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub cpu: u8,
    pub memory: u8,
    pub disk: u8,
}

impl Thresholds {
    pub const NONE: Self = Thresholds { cpu: 100, memory: 100, disk: 100 };
    pub fn of(settings: &ProviderSettings) -> Self {
        let ProviderSettings { cpu_threshold, memory_threshold, disk_threshold, .. } = settings;
        Thresholds { cpu: *cpu_threshold, memory: *memory_threshold, disk: *disk_threshold }
    }
}

struct Look {
    /// Since the monitor began.
    at: Duration,
    host: Option<HostLoad>,
    vms: Vec<VmUsage>,
}

/// Percent, each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The average of a minute, without our own guests: one that boots must not end our advert. None before there is
    /// a minute to speak of.
    pub cpu: Option<f32>,
    /// What our guests have of all processors, on the same average.
    pub own_guests: f32,
    pub memory: f32,
    pub swap: f32,
    pub disk: f32,
}

/// A second, each, since the look before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub disk_read: f64,
    pub disk_written: f64,
    pub net_received: f64,
    pub net_sent: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Over {
    cpu: bool,
    memory: bool,
    disk: bool,
}

pub struct Monitor {
    thresholds: Thresholds,
    looks: VecDeque<Look>,
    over: Over,
}

impl Monitor {
    pub fn new(thresholds: Thresholds) -> Self {
        Monitor { thresholds, looks: VecDeque::new(), over: Over::default() }
    }

    pub fn looked(&mut self, at: Duration, measured: Measured) {
        // What was begun earlier and took longer says nothing any more.
        if self.looks.back().is_some_and(|last| last.at >= at) {
            return;
        }
        let Measured { host, mut vms } = measured;
        vms.truncate(VMS_KEPT);
        self.looks.push_back(Look { at, host, vms });
        if self.looks.len() > KEPT {
            self.looks.pop_front();
        }
        let Some(load) = self.load() else { return self.over = Over::default() };
        let Thresholds { cpu, memory, disk } = self.thresholds;
        self.over = Over {
            cpu: load.cpu.is_some_and(|now| is_over(self.over.cpu, now, cpu)),
            memory: is_over(self.over.memory, load.memory, memory),
            disk: is_over(self.over.disk, load.disk, disk),
        };
    }

    /// None where nothing can be measured.
    pub fn load(&self) -> Option<Load> {
        let host = self.host()?;
        let own_guests = self.own_guests();
        let cpu = self.busy().map(|busy| (busy - own_guests).max(0.0));
        let (memory, swap, disk) = (host.memory.percent(), host.swap.percent(), host.disk.percent());
        Some(Load { cpu, own_guests, memory, swap, disk })
    }

    pub fn thresholds(&self) -> Thresholds {
        self.thresholds
    }
    pub fn host(&self) -> Option<&HostLoad> {
        self.looks.back()?.host.as_ref()
    }

    /// Those that ran at the last look.
    pub fn vms(&self) -> &[VmUsage] {
        self.looks.back().map_or(&[], |last| &last.vms)
    }

    pub fn rates(&self) -> Option<Rates> {
        let (last, before) = (self.looks.back()?, self.looks.iter().nth_back(1)?);
        let (now, then) = (last.host?, before.host?);
        let seconds = (last.at - before.at).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Some(Rates {
            disk_read: rate(now.disk_read_bytes, then.disk_read_bytes),
            disk_written: rate(now.disk_written_bytes, then.disk_written_bytes),
            net_received: rate(now.net_received_bytes, then.net_received_bytes),
            net_sent: rate(now.net_sent_bytes, then.net_sent_bytes),
        })
    }

    /// Why nothing more is let now, if so.
    pub fn too_busy(&self) -> Option<String> {
        let (load, thresholds) = (self.load()?, self.thresholds);
        let said = |what: &str, now: f32, threshold: u8| format!("{what} {now:.0} % (threshold {threshold} %)");
        if self.over.cpu {
            return Some(said("the host's processors are busy to", load.cpu.unwrap_or_default(), thresholds.cpu));
        }
        if self.over.memory {
            return Some(said("the host's memory is in use to", load.memory, thresholds.memory));
        }
        self.over.disk.then(|| said("the disk of the node's home is full to", load.disk, thresholds.disk))
    }

    /// The looks of the window, oldest first, when they fill it. The first's own usage is of the time before it.
    fn window(&self) -> Option<impl Iterator<Item = &Look>> {
        let from = self.looks.back()?.at.checked_sub(CPU_WINDOW)?;
        let begin = self.looks.iter().rposition(|look| look.at <= from)?;
        Some(self.looks.range(begin..))
    }

    /// All processors, weighted by how long each look spoke for.
    fn busy(&self) -> Option<f32> {
        let looks: Vec<&Look> = self.window()?.collect();
        let spans = looks.windows(2).filter_map(|pair| {
            let host = pair[1].host?;
            Some(((pair[1].at - pair[0].at).as_secs_f32(), host.cpu_percent))
        });
        let (time, busy) = spans.fold((0.0, 0.0), |(time, busy), (span, percent)| (time + span, busy + span * percent));
        (time > 0.0).then(|| busy / time)
    }

    fn own_guests(&self) -> f32 {
        let Some(looks) = self.window().map(|looks| looks.collect::<Vec<_>>()) else { return 0.0 };
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return 0.0 };
        let span = (last.at - first.at).as_secs_f32() * last.host.map_or(0, |host| host.cpus) as f32;
        let time: f32 = looks.windows(2).map(|pair| own_time(pair[0], pair[1])).sum();
        if span > 0.0 { time / span * 100.0 } else { 0.0 }
    }
}

fn is_over(was: bool, now: f32, threshold: u8) -> bool {
    let threshold = f32::from(threshold);
    now > if was { threshold - RELIEF } else { threshold }
}

/// Seconds of the processors that went to our guests between two looks. The counter of one that was started anew begins
/// at nothing.
fn own_time(before: &Look, after: &Look) -> f32 {
    let had = |id: LeaseId| before.vms.iter().find(|vm| vm.id == id).map(|vm| vm.cpu_time);
    let used = |vm: &VmUsage| had(vm.id).and_then(|had| vm.cpu_time.checked_sub(had)).unwrap_or(vm.cpu_time);
    after.vms.iter().map(used).sum::<Duration>().as_secs_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::Room;

    const THRESHOLDS: Thresholds = Thresholds { cpu: 90, memory: 85, disk: 90 };
    const GIB: u64 = 1 << 30;

    fn host(cpu_percent: f32, memory: u64, disk: u64) -> HostLoad {
        HostLoad {
            cpus: 2,
            cpu_percent,
            memory: Room { total_bytes: 100 * GIB, used_bytes: memory * GIB },
            disk: Room { total_bytes: 100 * GIB, used_bytes: disk * GIB },
            ..HostLoad::default()
        }
    }
    fn vm(n: u8, cpu_seconds: f64) -> VmUsage {
        VmUsage {
            id: LeaseId([n; 16]),
            cpu_time: Duration::from_secs_f64(cpu_seconds),
            memory_bytes: None,
            disk_bytes: 0,
            disk_read_bytes: None,
            disk_written_bytes: None,
        }
    }
    /// A look every five seconds.
    struct Clock(Monitor, Duration);
    impl Clock {
        fn new() -> Self {
            Clock(Monitor::new(THRESHOLDS), Duration::ZERO)
        }
        fn look(&mut self, host: HostLoad, vms: Vec<VmUsage>) -> Option<String> {
            self.1 += Duration::from_secs(5);
            self.0.looked(self.1, Measured { host: Some(host), vms });
            self.0.too_busy()
        }
    }

    #[test]
    fn a_busy_minute_ends_the_advert_and_a_busy_moment_does_not() {
        let mut clock = Clock::new();
        for _ in 0..12 {
            assert_eq!(clock.look(host(99.0, 10, 10), vec![]), None, "there is no minute yet");
        }
        let why = clock.look(host(99.0, 10, 10), vec![]).unwrap();
        assert_eq!(why, "the host's processors are busy to 99 % (threshold 90 %)");
        // It falls by 8 points with each idle look, and is well again below 85.
        assert!(clock.look(host(0.0, 10, 10), vec![]).is_some_and(|why| why.contains("91 %")));
        assert_eq!(clock.look(host(0.0, 10, 10), vec![]), None);
        for _ in 0..20 {
            clock.look(host(50.0, 10, 10), vec![]);
        }
        for _ in 0..6 {
            assert_eq!(clock.look(host(100.0, 10, 10), vec![]), None, "half a minute is none");
        }
    }

    #[test]
    fn our_own_guests_do_not_count() {
        let mut clock = Clock::new();
        for n in 1..40 {
            // One guest has one and a half of two processors, and is started anew in between.
            let time = 7.5 * f64::from(n % 20);
            assert_eq!(clock.look(host(95.0, 10, 10), vec![vm(1, time), vm(2, 3.0)]), None, "{n}");
        }
        let load = clock.0.load().unwrap();
        assert!((load.own_guests - 75.0).abs() < 1.0 && (load.cpu.unwrap() - 20.0).abs() < 1.0, "{load:?}");
    }

    #[test]
    fn memory_and_disk_are_judged_at_once_and_do_not_flap() {
        let mut clock = Clock::new();
        assert_eq!(clock.look(host(0.0, 85, 90), vec![]), None, "at the threshold it is not passed");
        assert!(clock.look(host(0.0, 86, 10), vec![]).unwrap().contains("memory is in use to 86 % (threshold 85 %)"));
        assert!(clock.look(host(0.0, 81, 10), vec![]).is_some(), "not yet");
        assert_eq!(clock.look(host(0.0, 80, 10), vec![]), None);
        assert!(clock.look(host(0.0, 10, 91), vec![]).unwrap().contains("home is full to 91 % (threshold 90 %)"));
        // What cannot be measured any more is no reason.
        clock.0.looked(clock.1 + Duration::from_secs(5), Measured::default());
        assert_eq!((clock.0.too_busy(), clock.0.load()), (None, None));
    }

    #[test]
    fn an_hour_is_kept_and_what_comes_late_is_not() {
        let mut clock = Clock::new();
        for n in 0..2000u64 {
            let mut now = host(10.0, 10, 10);
            (now.net_sent_bytes, now.disk_read_bytes) = (n * 5000, n * 10);
            clock.look(now, (0..2000u16).map(|_| vm(1, 1.0)).collect());
        }
        assert_eq!((clock.0.looks.len(), clock.0.vms().len()), (KEPT, VMS_KEPT));
        let rates = clock.0.rates().unwrap();
        assert_eq!((rates.net_sent, rates.disk_read, rates.net_received), (1000.0, 2.0, 0.0));
        let before = clock.0.load();
        clock.0.looked(clock.1, Measured { host: Some(host(10.0, 99, 99)), vms: vec![] });
        assert_eq!(clock.0.load(), before);
    }
}
