//! Nodes for the tests: on loopback, with deadlines instead of sleeps.
use node::mesh::{MeshConfig, MeshEvent, MeshHandle, RpcError, RpcId, Verdict, spawn};
use protocol::{Keypair, PeerId};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
/// Long enough for a busy machine; nothing here takes it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

pub fn config(seed: u8) -> MeshConfig {
    let mut config = MeshConfig::new(Keypair::from_secret(&[seed; 32]), "test".parse().unwrap());
    config.listen = vec![TCP.to_owned()];
    config
}

pub struct Node {
    pub id: PeerId,
    pub mesh: MeshHandle,
    pub events: mpsc::Receiver<MeshEvent>,
}

impl Node {
    pub async fn start(config: MeshConfig) -> Node {
        let (mesh, events) = spawn(config).await.unwrap();
        Node { id: mesh.local_peer(), mesh, events }
    }
    pub async fn addr(&self) -> String {
        self.mesh.listen_addrs().await.unwrap().remove(0)
    }
    /// The first event of which `pick` makes something; the others are let go.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(MeshEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.unwrap_or_else(|| panic!("the mesh ended before: {what}"));
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        soon(what, wait).await
    }
    pub async fn until_end(&mut self) {
        soon("the end", async { while self.events.recv().await.is_some() {} }).await
    }
    pub async fn connected_to(&mut self, peer: PeerId) {
        self.until("connected", |e| matches!(e, MeshEvent::PeerConnected(p) if p == peer).then_some(())).await
    }
    pub async fn subscribed_by(&mut self, peer: PeerId) {
        self.until("subscribed", |e| matches!(e, MeshEvent::PeerSubscribed(p) if p == peer).then_some(())).await
    }
    pub async fn answer_to(&mut self, rpc: RpcId) -> Result<Vec<u8>, RpcError> {
        self.until("an answer", |event| match event {
            MeshEvent::Response { rpc: id, result } if id == rpc => Some(result),
            _ => None,
        })
        .await
    }
    /// Answers with what it is asked, echoes tunnels, accepts gossip: from now on by itself.
    pub fn serve(self) -> MeshHandle {
        let (mesh, mut events) = (self.mesh.clone(), self.events);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    MeshEvent::Request { token, body, .. } => self.mesh.reply(token, body).await.unwrap(),
                    MeshEvent::Gossip { id, .. } => self.mesh.judge(id, Verdict::Accept).await.unwrap(),
                    MeshEvent::Stream { stream, .. } => {
                        tokio::spawn(async move {
                            let (mut read, mut write) = tokio::io::split(stream);
                            let _ = tokio::io::copy(&mut read, &mut write).await;
                            let _ = write.shutdown().await;
                        });
                    }
                    _ => {}
                }
            }
        });
        mesh
    }
}

/// Two connected nodes that listen at `listen`.
pub async fn pair(seed: u8, listen: &str) -> (Node, Node) {
    let (mut first, mut second) = (config(seed), config(seed + 1));
    first.listen = vec![listen.to_owned()];
    second.listen = vec![listen.to_owned()];
    connected(first, second).await
}

/// The second joins through the first.
pub async fn connected(first: MeshConfig, mut second: MeshConfig) -> (Node, Node) {
    let mut first = Node::start(first).await;
    second.bootstrap = vec![first.addr().await];
    let mut second = Node::start(second).await;
    first.connected_to(second.id).await;
    second.connected_to(first.id).await;
    (first, second)
}

/// Sends `total` bytes through an echoing tunnel while reading them back, and compares.
pub async fn echo(stream: node::mesh::BoxedStream, total: usize) {
    let (mut read, mut write) = tokio::io::split(stream);
    let byte = |at: usize| (at / 7 + at % 251) as u8;
    let sender = tokio::spawn(async move {
        for start in (0..total).step_by(64 * 1024) {
            let chunk: Vec<u8> = (start..total.min(start + 64 * 1024)).map(byte).collect();
            write.write_all(&chunk).await.unwrap();
        }
        write.shutdown().await.unwrap();
    });
    let (mut at, mut chunk) = (0, vec![0; 64 * 1024]);
    loop {
        let got = soon("bytes", read.read(&mut chunk)).await.unwrap();
        if got == 0 {
            break;
        }
        assert!(chunk[..got].iter().enumerate().all(|(i, b)| *b == byte(at + i)), "wrong bytes after {at}");
        at += got;
    }
    assert_eq!(at, total);
    sender.await.unwrap();
}
