//! What golemnode's nodes say and decide. Pure: no async, no clock, no sockets, no files; time is an argument and
//! randomness a seed, so that every interleaving can be replayed.
pub mod codec;
pub mod error;
pub mod identity;
pub mod money;
pub mod names;
pub mod seed;
pub mod units;

pub use error::{ErrorCode, Fault};
pub use identity::{Keypair, PeerId};
