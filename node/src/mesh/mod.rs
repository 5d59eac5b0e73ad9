//! The mesh: the only place where libp2p's types appear. Outside, a peer is a `protocol::PeerId`, an address a string,
//! a message bytes, and a tunnel a tokio stream.
mod handle;
pub mod limits;
mod metrics;
mod types;

pub use handle::MeshHandle;
pub use metrics::MetricsSnapshot;
pub use types::*;

use protocol::Fault;
use tokio::sync::mpsc;

/// Starts a mesh node. A listen address that cannot be used, or one that cannot be parsed, is a fault here.
pub async fn spawn(config: MeshConfig) -> Result<(MeshHandle, mpsc::Receiver<MeshEvent>), Fault> {
    let _ = config;
    Err(Fault::internal("not built yet"))
}
