//! What golemnode's nodes say and decide. Pure: no async, no clock, no sockets, no files; time is an argument and
//! randomness a seed, so that every interleaving can be replayed.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]
pub mod advert;
pub mod board;
pub mod codec;
pub mod core;
pub mod credit;
pub mod envelope;
pub mod error;
pub mod history;
pub mod identity;
pub mod job;
pub mod lease;
pub mod ledger;
pub mod message;
pub mod meter;
pub mod money;
pub mod names;
pub mod opener;
pub mod quota;
pub mod ranking;
pub mod receipt;
pub mod refusal;
pub mod renewal;
pub mod revocation;
pub mod seed;
pub mod shard;
pub mod spec;
pub mod text;
pub mod tunnel;
pub mod units;

pub use error::{ErrorCode, Fault};
pub use identity::{Keypair, PeerId};
