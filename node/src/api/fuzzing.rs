//! Both ends of the local API, for `tests/fuzz`.
use super::{client, idle::IdleWatch, server};
use crate::handle::{Command, NodeHandle};
use protocol::Fault;
use tokio::sync::mpsc;

/// The API of a node that takes its commands from the channel.
pub fn api(commands: mpsc::Sender<Command>) -> axum::Router {
    server::router(NodeHandle::new(commands), IdleWatch::new(None))
}

/// What a command makes of the answer to its upgrade: the guest's first bytes, or the fault.
pub fn upgraded(said: &[u8]) -> std::io::Result<Result<Vec<u8>, Fault>> {
    client::upgraded(said)
}
