//! Sizes, durations and instants. Parsed once at the edge; nothing deeper checks again.
use crate::error::Fault;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A byte count with a binary unit: `512M`, `4G`, `20GiB`, `1T`. A bare number has no unit and is refused.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("'{text}' is not a size"));
    }
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is too large"))?;
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => MIB,
        "G" | "GB" | "GIB" => GIB,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(format!("'{text}' is not a size")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

const SIZE_HINT: &str = "sizes take a binary unit, such as 512M, 4G or 20G";

macro_rules! size {
    ($name:ident, $unit:expr, $suffix:literal, $least:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The least that a VM may ask for.
            pub const LEAST: $name = $name($least);
            pub fn bytes(self) -> u64 {
                self.0.saturating_mul($unit)
            }
        }
        impl FromStr for $name {
            type Err = Fault;
            fn from_str(text: &str) -> Result<Self, Fault> {
                let bytes = parse_bytes(text).map_err(|why| Fault::invalid(why).hint(SIZE_HINT))?;
                if bytes % $unit != 0 {
                    return Err(
                        Fault::invalid(format!("'{text}' is not a whole number of {}iB", $suffix)).hint(SIZE_HINT)
                    );
                }
                Ok($name(bytes / $unit))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if $suffix == "M" && self.0 >= 1024 && self.0 % 1024 == 0 {
                    write!(f, "{}G", self.0 / 1024)
                } else {
                    write!(f, "{}{}", self.0, $suffix)
                }
            }
        }
    };
}
size!(MemoryMib, MIB, "M", 128, "Memory in MiB.");
size!(DiskGib, GIB, "G", 1, "Disk in GiB.");

/// Milliseconds since the Unix epoch. Always an argument here, never read from a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn secs(secs: u64) -> Self {
        Millis(secs * 1000)
    }
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }
    pub fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}
impl Add<Millis> for Timestamp {
    type Output = Timestamp;
    fn add(self, other: Millis) -> Timestamp {
        Timestamp(self.0.saturating_add(other.0))
    }
}
impl Timestamp {
    /// The same instant by a clock that has been set back by so much. Saturates at zero.
    pub fn set_back(self, by: Millis) -> Timestamp {
        Timestamp(self.0.saturating_sub(by.0))
    }
}
/// Saturates at zero: an instant in the future has not been waited for yet.
impl Sub<Timestamp> for Timestamp {
    type Output = Millis;
    fn sub(self, other: Timestamp) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }
}
impl FromStr for Millis {
    type Err = Fault;
    /// `90s`, `30m`, `2h`, `7d`, or a sum such as `1h30m`.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad =
            || Fault::invalid(format!("'{text}' is not a duration")).hint("durations look like 90s, 30m, 2h or 7d");
        let (mut total, mut rest) = (0u64, text.trim());
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = rest[digits..].chars().next().ok_or_else(bad)?;
            let factor = match unit {
                's' => 1_000,
                'm' => 60_000,
                'h' => 3_600_000,
                'd' => 86_400_000,
                _ => return Err(bad()),
            };
            total = number.checked_mul(factor).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        Ok(Millis(total))
    }
}
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.as_secs();
        match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
            (0, 0, 0, s) => write!(f, "{s}s"),
            (0, 0, m, 0) => write!(f, "{m}m"),
            (0, 0, m, s) => write!(f, "{m}m{s}s"),
            (0, h, 0, _) => write!(f, "{h}h"),
            (0, h, m, _) => write!(f, "{h}h{m}m"),
            (d, 0, ..) => write!(f, "{d}d"),
            (d, h, ..) => write!(f, "{d}d{h}h"),
        }
    }
}

/// What a VM takes, or what a provider has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    pub cpus: u32,
    pub memory_mib: MemoryMib,
    pub disk_gib: DiskGib,
}

impl Resources {
    pub const SMALL: Resources = Resources::new(1, 1024, 10);
    pub const MEDIUM: Resources = Resources::new(2, 4096, 20);
    pub const LARGE: Resources = Resources::new(4, 8192, 40);
    pub const MOST_CPUS: u32 = 64;
    /// 16 TiB of memory and 1 PiB of disk: beyond any host, and small enough that sums cannot overflow.
    const MOST_MEMORY: MemoryMib = MemoryMib(16 << 20);
    const MOST_DISK: DiskGib = DiskGib(1 << 20);

    pub const fn new(cpus: u32, memory_mib: u64, disk_gib: u64) -> Self {
        Resources { cpus, memory_mib: MemoryMib(memory_mib), disk_gib: DiskGib(disk_gib) }
    }
    pub fn named(size: &str) -> Result<Self, Fault> {
        match size {
            "small" => Ok(Self::SMALL),
            "medium" => Ok(Self::MEDIUM),
            "large" => Ok(Self::LARGE),
            other => Err(Fault::invalid(format!("no size is named '{other}'"))
                .hint("sizes are small (1 CPU, 1G, 10G), medium (2, 4G, 20G) and large (4, 8G, 40G)")),
        }
    }
    /// The limits of one VM.
    pub fn check(self) -> Result<Self, Fault> {
        if self.cpus < 1 || self.cpus > Self::MOST_CPUS {
            return Err(Fault::invalid(format!("a VM has 1 to {} CPUs, not {}", Self::MOST_CPUS, self.cpus)));
        }
        if self.memory_mib < MemoryMib::LEAST || self.memory_mib > Self::MOST_MEMORY {
            return Err(Fault::invalid(format!(
                "a VM has at least {} of memory, not {}",
                MemoryMib::LEAST,
                self.memory_mib
            )));
        }
        if self.disk_gib < DiskGib::LEAST || self.disk_gib > Self::MOST_DISK {
            return Err(Fault::invalid(format!("a VM has at least {} of disk, not {}", DiskGib::LEAST, self.disk_gib)));
        }
        Ok(self)
    }
    pub fn fits_in(self, free: Resources) -> bool {
        self.cpus <= free.cpus && self.memory_mib <= free.memory_mib && self.disk_gib <= free.disk_gib
    }
    pub fn plus(self, other: Resources) -> Resources {
        Resources::new(
            self.cpus.saturating_add(other.cpus),
            self.memory_mib.0.saturating_add(other.memory_mib.0),
            self.disk_gib.0.saturating_add(other.disk_gib.0),
        )
    }
    /// Of each the larger.
    pub fn or_more(self, other: Resources) -> Resources {
        Resources {
            cpus: self.cpus.max(other.cpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
            disk_gib: self.disk_gib.max(other.disk_gib),
        }
    }
    /// Saturates at zero.
    pub fn minus(self, other: Resources) -> Resources {
        Resources::new(
            self.cpus.saturating_sub(other.cpus),
            self.memory_mib.0.saturating_sub(other.memory_mib.0),
            self.disk_gib.0.saturating_sub(other.disk_gib.0),
        )
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPU, {} memory, {} disk", self.cpus, self.memory_mib, self.disk_gib)
    }
}

/// CPUs that are let for each hundred that the host has: above 100, VMs share them when all are busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overcommit(pub u16);

impl Overcommit {
    pub fn of(factor: f64) -> Self {
        Overcommit((factor * 100.0).round() as u16)
    }
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
impl Default for Overcommit {
    fn default() -> Self {
        Overcommit(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_units_only() {
        assert_eq!("512M".parse::<MemoryMib>().unwrap(), MemoryMib(512));
        assert_eq!("4G".parse::<MemoryMib>().unwrap(), MemoryMib(4096));
        assert_eq!("4GiB".parse::<MemoryMib>().unwrap(), MemoryMib(4096));
        assert_eq!("1t".parse::<DiskGib>().unwrap(), DiskGib(1024));
        for bad in ["", "G", "4", "-4G", "4.5G", "4X", "99999999999999999999G", "18446744073709551615T", "512é"] {
            assert!(bad.parse::<MemoryMib>().is_err(), "{bad}");
        }
        assert!("512M".parse::<DiskGib>().is_err(), "half a GiB is not a disk size");
    }

    #[test]
    fn durations_parse_and_print() {
        for (text, ms) in
            [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("7d", 604_800_000), ("1h30m", 5_400_000)]
        {
            assert_eq!(text.parse::<Millis>().unwrap(), Millis(ms));
        }
        for bad in ["", "5", "h", "5x", "-1h", "99999999999999999999d", "1é"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
        assert_eq!(Millis::secs(5400).to_string(), "1h30m");
    }

    #[test]
    fn limits_of_a_vm() {
        assert!(Resources::new(1, 128, 1).check().is_ok());
        for bad in [
            Resources::new(0, 128, 1),
            Resources::new(65, 128, 1),
            Resources::new(1, 127, 1),
            Resources::new(1, 128, 0),
        ] {
            assert!(bad.check().is_err(), "{bad}");
        }
    }
}
