//! One binary: linking is the slowest part of the suite.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says aloud what it skips")]
#[cfg(feature = "libvirt")]
mod guest;
mod readiness;
