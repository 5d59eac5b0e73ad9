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
