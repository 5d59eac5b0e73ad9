//! Room on the disk of the home. Below a mark nothing new is begun; what has been begun goes on and ends in what is left,
//! down to the last 2 MiB (`store.rs`).
//!
//! ```text
//!            < 64 MiB                         < 2 MiB
//! (enough) ────────────▶ (little) ───────────────────────────────────▶ (a commit waits)
//!     ▲     ≥ 96 MiB         │  ▲               room again                    │
//!     └──────────────────────┘  └─────────────────────────────────────────────┘
//! ```
use crate::config::io;
use protocol::Fault;
use std::path::{Path, PathBuf};

/// Below this nothing new is let or rented. A lease and its end write some 20 KB, and rewrite pages of a log of a few MB.
pub const LITTLE: u64 = 64 << 20;
/// From here on it is again; above the other mark, so that it does not change with every write.
pub const ENOUGH: u64 = 96 << 20;

pub struct Room {
    home: PathBuf,
    little: bool,
}

impl Room {
    pub fn new(home: &crate::config::Home) -> Self {
        Room { home: home.root().to_owned(), little: false }
    }

    /// Looks again; true when the answer to `is_little` has changed.
    pub fn look(&mut self) -> bool {
        // A file system that does not say is not taken for full.
        let Ok(free) = free(&self.home) else { return false };
        let little = free < if self.little { ENOUGH } else { LITTLE };
        let changed = little != self.little;
        self.little = little;
        changed
    }
    /// The disk itself has said so, whatever it says of free space.
    pub fn is_out(&mut self) {
        self.little = true;
    }

    /// Why nothing new is begun, if nothing is.
    pub fn is_little(&self) -> Option<String> {
        let marks = || format!("the disk of the node's home has less than {} MiB left", LITTLE >> 20);
        self.little.then(marks)
    }
}

/// What an ordinary user may still write there.
fn free(path: &Path) -> Result<u64, Fault> {
    let found = rustix::fs::statvfs(path).map_err(|error| io("look at", path, &error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
