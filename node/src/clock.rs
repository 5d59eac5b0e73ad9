//! The only place where the node reads the time of day, and judges it. A host's clock is set by people and by NTP, back
//! and forward; how long the host has been up is not. What is let for an hour lasts for an hour.
//!
//! ```text
//! start ──▶ believed ── set by over 10 s, while up ──▶ believed: said to the core, which moves the ends of leases
//!   │          ▲    └── set within 10 minutes of the boot: the boot's clock is corrected, ends are as they were signed
//!   │          │ the host's clock has caught up
//!   └──▶ doubted: it is earlier than when a node last ran here. Time goes on from there
//! ```
//! What cannot be known is how long a host was off whose clock is wrong when it starts: while it is doubted, that time
//! counts for nothing.
use protocol::units::{Millis, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// NTP moves a clock by less than this without setting it; and a lease may end as much too early or late.
const STEP: Millis = Millis::secs(10);
/// A host without a clock of its own is told the time soon after it has booted.
const BOOTING: Duration = Duration::from_secs(600);
/// How often the time is kept: by so much a lease may end later after a start with a wrong clock.
const KEEP_EVERY: Millis = Millis::secs(60);

/// One host, one clock, however many nodes this process has.
static BELIEF: Mutex<Option<Belief>> = Mutex::new(None);

/// A host whose clock stands before 1970 gets zero: everything it signs is refused by others, and it is told so.
pub fn now() -> Timestamp {
    judged(|belief, wall, up| belief.read(wall, up))
}

/// By how much the host's clock has been set since this process started, in milliseconds, all in all.
pub fn set_by() -> i64 {
    judged(|belief, wall, up| {
        belief.read(wall, up);
        belief.set_by
    })
}

/// Why the time is not what the host's clock says.
pub fn doubted() -> Option<String> {
    let doubted = judged(|belief, wall, up| {
        let now = belief.read(wall, up);
        belief.doubted.then_some((wall, now))
    });
    doubted.map(|(wall, now)| {
        format!(
            "this host's clock says {}, but a node ran here at {} already: set it, or remove the file 'clock' from the \
             node's home if it is right",
            rfc3339(wall),
            rfc3339(now)
        )
    })
}

fn judged<T>(judge: impl FnOnce(&mut Belief, Timestamp, Duration) -> T) -> T {
    let mut belief = BELIEF.lock().unwrap_or_else(PoisonError::into_inner);
    // Read under the lock, so that nobody's older time comes after a newer one.
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (wall, up) = (Timestamp(wall.as_millis() as u64), up());
    judge(belief.get_or_insert_with(|| Belief::new(wall, up)), wall, up)
}

/// How long the host has been up, also while it was suspended: guests' time and tenants' time went on.
fn up() -> Duration {
    #[cfg(target_os = "linux")]
    let id = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = ClockId::Monotonic;
    let since = clock_gettime(id);
    Duration::new(since.tv_sec as u64, since.tv_nsec as u32)
}

/// What the time is taken to be, by two clocks: one that is set, and one that only runs.
struct Belief {
    at: Timestamp,
    up: Duration,
    doubted: bool,
    set_by: i64,
}

impl Belief {
    fn new(wall: Timestamp, up: Duration) -> Self {
        Belief { at: wall, up, doubted: false, set_by: 0 }
    }

    fn read(&mut self, wall: Timestamp, up: Duration) -> Timestamp {
        let expected = self.at + Millis(up.saturating_sub(self.up).as_millis() as u64);
        let by = wall.0 as i64 - expected.0 as i64;
        let is_set = by.unsigned_abs() > STEP.0;
        if self.doubted && is_set && by < 0 {
            return expected;
        }
        if is_set && !self.doubted && up >= BOOTING {
            self.set_by += by;
        }
        (self.at, self.up, self.doubted) = (wall, up, false);
        wall
    }

    /// It was that time already.
    fn is_after(&mut self, known: Timestamp, wall: Timestamp, up: Duration) {
        if self.read(wall, up) + STEP < known {
            (self.at, self.up, self.doubted) = (known, up, true);
        }
    }
}

/// When a node last ran in this home: a file of its own, since it changes each minute and may be lost.
pub struct LastRun {
    file: PathBuf,
    kept: Timestamp,
}

impl LastRun {
    pub fn of(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        LastRun { file: file.to_owned(), kept: Timestamp(text.trim().parse().unwrap_or_default()) }
    }
    /// It is later now, whatever the host's clock says.
    pub fn is_over(&self) {
        judged(|belief, wall, up| belief.is_after(self.kept, wall, up));
    }
    pub fn keep(&mut self, now: Timestamp) {
        // Also a time that was set back.
        if now - self.kept < KEEP_EVERY && self.kept - now < KEEP_EVERY {
            return;
        }
        let fresh = self.file.with_extension("new");
        let written = std::fs::write(&fresh, format!("{}\n", now.0)).and_then(|()| std::fs::rename(&fresh, &self.file));
        match written {
            Ok(()) => self.kept = now,
            Err(error) => tracing::debug!(%error, "the time is not kept"),
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    // The year 9999 is as far as the format goes.
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.0.min(LAST))).to_string()
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
