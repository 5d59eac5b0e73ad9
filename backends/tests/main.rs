//! One binary: linking is the slowest part of the suite.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says aloud what it skips")]
mod conformance;
#[cfg(feature = "libvirt")]
mod guest;
#[cfg(feature = "libvirt")]
mod libvirt_host;
mod readiness;
mod simulated;
