//! Properties, tried with random input. A case that once failed is kept in `proptest-regressions` and tried first.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
mod codec;
mod hostile;
mod ledger;
mod text;
mod wire;
