//! The way into a running mesh. Clones share one actor; every call is one command, and the actor always takes them.
use super::join::Bootstrap;
use super::limits;
use super::metrics::{Metrics, MetricsSnapshot};
use super::types::*;
use protocol::PeerId;
use protocol::codec::MAX_MESSAGE;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub(super) enum Command {
    /// The slot is given back when the event with the answer has been taken from the mesh.
    Send {
        rpc: RpcId,
        to: PeerId,
        body: Vec<u8>,
        slot: OwnedSemaphorePermit,
    },
    Reply {
        token: RequestToken,
        body: Option<Vec<u8>>,
    },
    Publish {
        body: Vec<u8>,
        done: oneshot::Sender<Result<(), MeshError>>,
    },
    Judge {
        id: GossipId,
        verdict: Verdict,
    },
    Dial {
        addr: String,
        done: oneshot::Sender<Result<PeerId, MeshError>>,
    },
    AddAddress {
        peer: PeerId,
        addr: String,
    },
    OpenStream {
        to: PeerId,
        done: oneshot::Sender<Result<BoxedStream, MeshError>>,
    },
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    ListenAddrs(oneshot::Sender<Vec<String>>),
    ExternalAddrs(oneshot::Sender<Vec<String>>),
    FindHolders {
        ticket: u64,
        key: Vec<u8>,
    },
    Keep(Vec<PeerId>),
    Pin(PeerId),
    Unpin(PeerId),
    Ban(PeerId),
    Unban(PeerId),
    Disconnect(PeerId),
    Shutdown(oneshot::Sender<()>),
}

#[derive(Clone)]
pub struct MeshHandle {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    next_rpc: Arc<AtomicU64>,
    rpc_slots: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    bootstrap: Bootstrap,
}

impl MeshHandle {
    pub(super) fn new(
        local: PeerId,
        commands: mpsc::Sender<Command>,
        metrics: Arc<Metrics>,
        bootstrap: Bootstrap,
    ) -> Self {
        let rpc_slots = Arc::new(Semaphore::new(limits::MAX_RPCS));
        MeshHandle { local, commands, next_rpc: Arc::new(AtomicU64::new(1)), rpc_slots, metrics, bootstrap }
    }

    async fn tell(&self, command: Command) -> Result<(), MeshError> {
        self.commands.send(command).await.map_err(|_| MeshError::Stopped)
    }
    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, MeshError> {
        let (done, answer) = oneshot::channel();
        self.tell(make(done)).await?;
        answer.await.map_err(|_| MeshError::Stopped)
    }

    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// Sends a request, dialling and looking the peer up where necessary. The answer, or why there is none, arrives
    /// as `MeshEvent::Response` within `limits::RPC_TIMEOUT`. It may arrive twice: when the connection that it went over
    /// is closed and another is there, it goes over that. An oversized body is refused here.
    pub async fn send(&self, to: PeerId, body: Vec<u8>) -> Result<RpcId, MeshError> {
        bounded(&body, MAX_MESSAGE)?;
        let slot = self.rpc_slots.clone().try_acquire_owned().map_err(|_| MeshError::Busy(limits::MAX_RPCS))?;
        let rpc = RpcId(self.next_rpc.fetch_add(1, Ordering::Relaxed));
        self.tell(Command::Send { rpc, to, body, slot }).await?;
        Ok(rpc)
    }
    /// Answers a request. A token whose time is over is ignored: the asker has its time-out by then.
    pub async fn reply(&self, token: RequestToken, body: Vec<u8>) -> Result<(), MeshError> {
        bounded(&body, MAX_MESSAGE)?;
        self.tell(Command::Reply { token, body: Some(body) }).await
    }
    /// Closes a request without an answer; the asker sees `RpcError::Dropped`.
    pub async fn drop_request(&self, token: RequestToken) -> Result<(), MeshError> {
        self.tell(Command::Reply { token, body: None }).await
    }
    /// Gossips on the board's topic. `NoNeighbours` while nobody listens: see `MeshEvent::PeerSubscribed`.
    pub async fn publish(&self, body: Vec<u8>) -> Result<(), MeshError> {
        bounded(&body, limits::MAX_GOSSIP)?;
        self.ask(|done| Command::Publish { body, done }).await?
    }
    pub async fn judge(&self, id: GossipId, verdict: Verdict) -> Result<(), MeshError> {
        self.tell(Command::Judge { id, verdict }).await
    }
    /// Connects to an address; answers who is there.
    pub async fn dial(&self, addr: &str) -> Result<PeerId, MeshError> {
        self.ask(|done| Command::Dial { addr: addr.to_owned(), done }).await?
    }
    /// Remembers where a peer listens, as an advert or a lease says.
    pub async fn add_address(&self, peer: PeerId, addr: &str) -> Result<(), MeshError> {
        self.tell(Command::AddAddress { peer, addr: addr.to_owned() }).await
    }
    /// Opens a tunnel: over the connection that is there, or dialling known addresses, or asking the DHT for some;
    /// all within `limits::OPEN_DEADLINE`.
    pub async fn open_stream(&self, to: PeerId) -> Result<BoxedStream, MeshError> {
        self.ask(|done| Command::OpenStream { to, done }).await?
    }
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, MeshError> {
        self.ask(Command::Peers).await
    }
    /// Concrete addresses that end in `/p2p/ID`.
    pub async fn listen_addrs(&self) -> Result<Vec<String>, MeshError> {
        self.ask(Command::ListenAddrs).await
    }
    /// Where peers say they see us (unconfirmed).
    pub async fn external_addrs(&self) -> Result<Vec<String>, MeshError> {
        self.ask(Command::ExternalAddrs).await
    }
    /// Looks up the servers closest to a key; answered by `MeshEvent::Holders`.
    pub async fn find_holders(&self, ticket: u64, key: Vec<u8>) -> Result<(), MeshError> {
        self.tell(Command::FindHolders { ticket, key }).await
    }
    /// Peers that are turned to again soon, in place of those named before: a visit of theirs does not end. Those
    /// beyond `limits::MAX_PARTNERS` are left out.
    pub async fn keep(&self, mut peers: Vec<PeerId>) -> Result<(), MeshError> {
        peers.truncate(limits::MAX_PARTNERS);
        self.tell(Command::Keep(peers)).await
    }
    /// A pinned peer (a leased one) is never dropped to make room, and redialled when it is lost.
    pub async fn pin(&self, peer: PeerId) -> Result<(), MeshError> {
        self.tell(Command::Pin(peer)).await
    }
    pub async fn unpin(&self, peer: PeerId) -> Result<(), MeshError> {
        self.tell(Command::Unpin(peer)).await
    }
    /// Cuts the peer off and refuses it until `unban`; one that is pinned, as soon as it is no longer.
    pub async fn ban(&self, peer: PeerId) -> Result<(), MeshError> {
        self.tell(Command::Ban(peer)).await
    }
    pub async fn unban(&self, peer: PeerId) -> Result<(), MeshError> {
        self.tell(Command::Unban(peer)).await
    }
    /// Whether we were told to join through this peer.
    pub fn is_bootstrap(&self, peer: &PeerId) -> bool {
        self.bootstrap.contains(peer)
    }
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), MeshError> {
        self.tell(Command::Disconnect(peer)).await
    }
    pub fn metrics(&self) -> MetricsSnapshot {
        self.metrics.snapshot()
    }
    /// Ends when every connection is closed. Tunnels end with it.
    pub async fn shutdown(&self) {
        // An actor that is gone already has nothing left to close.
        let _ = self.ask(Command::Shutdown).await;
    }
}

fn bounded(body: &[u8], limit: usize) -> Result<(), MeshError> {
    if body.len() > limit {
        return Err(MeshError::Oversized { size: body.len(), limit });
    }
    Ok(())
}
