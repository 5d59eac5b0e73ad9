//! The local API on the home's socket: whoever may open the socket may use the node.
pub mod billing;
pub mod client;
mod extract;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod idle;
pub mod server;
pub mod types;
