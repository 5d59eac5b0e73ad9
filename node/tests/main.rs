//! The node's integration tests: one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it measured")]
mod api;
mod mesh;
mod store;
