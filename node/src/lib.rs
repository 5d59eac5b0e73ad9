//! The running node: libp2p at one edge, backends at another, sled at the third, HTTP at the fourth.
mod actor;
#[cfg(feature = "jemalloc")]
mod allocator;
pub mod api;
pub mod bans;
pub mod clock;
pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod handle;
pub mod mesh;
mod provider;
mod room;
mod run;
pub mod ssh;
pub mod store;
mod tunnel;

#[cfg(feature = "libvirt")]
pub use run::libvirt_config;
pub use run::{Node, Observer, ProviderParts, Tuning, run, run_with, start};
