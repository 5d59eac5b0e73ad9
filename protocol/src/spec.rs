//! What a requestor wants: a VM, and what it demands of the provider.
use crate::error::Fault;
use crate::money::Amount;
use crate::names::{Arch, BackendKind, Country, ImageName, IsolationWanted};
use crate::units::{Millis, Resources};
use serde::{Deserialize, Serialize};

/// Each published port is a listener on the provider.
pub const MAX_PORTS: usize = 16;
/// A lease of a year: beyond it a price or a clock is more likely wrong than meant.
pub const MAX_DURATION: Millis = Millis::secs(366 * 86_400);
pub const MIN_DURATION: Millis = Millis::secs(60);

/// The VM itself, as it is quoted and leased.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmSpec {
    pub resources: Resources,
    pub image: ImageName,
    pub isolation: IsolationWanted,
    pub arch: Option<Arch>,
    pub backend: Option<BackendKind>,
    pub ports: Vec<u16>,
    pub duration: Millis,
    /// Where none is let for so long, less will do.
    #[serde(default)]
    pub or_less: bool,
}

impl VmSpec {
    pub fn check(&self) -> Result<(), Fault> {
        self.resources.check()?;
        if self.ports.len() > MAX_PORTS {
            return Err(Fault::invalid(format!("a VM publishes at most {MAX_PORTS} ports")));
        }
        if self.duration < MIN_DURATION || self.duration > MAX_DURATION {
            return Err(Fault::invalid(format!("a lease lasts 1m to 366d, not {}", self.duration)));
        }
        Ok(())
    }
    /// Whether this may be quoted to who asks for that: the same, or less time where that will do.
    pub fn answers(&self, asked: &VmSpec) -> bool {
        let shorter = asked.or_less && self.duration < asked.duration;
        let duration = if shorter { asked.duration } else { self.duration };
        self.duration >= MIN_DURATION && VmSpec { duration, ..self.clone() } == *asked
    }
    /// Whether who asks for this means the VM that was made from that.
    pub fn means(&self, made: &VmSpec) -> bool {
        let duration = if self.or_less { made.duration } else { self.duration };
        VmSpec { duration, or_less: made.or_less, ..self.clone() } == *made
    }
}

/// A question to the board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub want: Resources,
    pub image: Option<ImageName>,
    pub isolation: IsolationWanted,
    pub arch: Option<Arch>,
    pub country: Option<Country>,
    pub backend: Option<BackendKind>,
    pub max_price: Option<Amount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hours: u64, or_less: bool) -> VmSpec {
        VmSpec {
            resources: Resources::SMALL,
            image: "tiny".parse().unwrap(),
            isolation: IsolationWanted::Vm,
            arch: None,
            backend: None,
            ports: vec![],
            duration: Millis::secs(3600 * hours),
            or_less,
        }
    }

    #[test]
    fn less_time_answers_only_who_said_that_it_will_do() {
        assert!(spec(1, true).answers(&spec(24, true)) && spec(24, true).answers(&spec(24, true)));
        assert!(!spec(1, false).answers(&spec(24, false)), "it was asked for a day");
        assert!(!spec(25, true).answers(&spec(24, true)), "more is charged for");
        assert!(!VmSpec { duration: Millis(1), ..spec(1, true) }.answers(&spec(24, true)));
        assert!(!VmSpec { ports: vec![80], ..spec(1, true) }.answers(&spec(24, true)));
    }

    #[test]
    fn who_does_not_say_how_long_means_the_vm_that_is_there() {
        assert!(spec(24, true).means(&spec(2, false)) && spec(24, true).means(&spec(24, true)));
        assert!(spec(24, false).means(&spec(24, true)) && !spec(2, false).means(&spec(24, true)));
        assert!(!VmSpec { ports: vec![80], ..spec(24, true) }.means(&spec(24, true)));
    }
}
