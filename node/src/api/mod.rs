//! The local API on the home's socket: whoever may open the socket may use the node.
pub mod client;
mod extract;
pub mod idle;
pub mod server;
pub mod types;
