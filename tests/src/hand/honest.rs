//! Peers of good will, who ask a node small things all along and note how long it takes to answer.
use node::mesh::{self, MeshConfig, MeshEvent, MeshHandle, Verdict};
use protocol::message::{Frame, Request, Response};
use protocol::names::{LeaseId, Network};
use protocol::refusal::Refusal;
use protocol::{Keypair, PeerId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

/// Each asks this often at most: a twelfth of what a node takes from one peer, and more than one asks another for long.
const EVERY: Duration = Duration::from_millis(250);

/// What is over sooner has been asked about, too.
const FEW: usize = 8;

pub struct Honest {
    mesh: MeshHandle,
    events: mpsc::Receiver<MeshEvent>,
    node: PeerId,
}

/// What was asked while it lasted.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// In milliseconds.
    pub took: Vec<f64>,
    pub failed: Vec<String>,
}

impl Asked {
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.took.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
    pub fn and(mut self, other: Asked) -> Asked {
        self.took.extend(other.took);
        self.failed.extend(other.failed);
        self
    }
}

impl Honest {
    pub async fn join(secret: u8, addr: &str, node: PeerId, network: &Network) -> Honest {
        let key = Keypair::from_secret(&[secret; 32]);
        let config = MeshConfig {
            bootstrap: vec![addr.to_owned()],
            server: false,
            mdns: false,
            ..MeshConfig::new(key, network.clone())
        };
        let (mesh, events) = mesh::spawn(config).await.expect("a mesh");
        let mut honest = Honest { mesh, events, node };
        let there = async { while !matches!(honest.events.recv().await, Some(MeshEvent::PeerConnected(_)) | None) {} };
        tokio::time::timeout(super::PATIENCE, there).await.expect("the node takes an honest peer");
        honest
    }

    /// Asks until it is told to stop, and has asked a few times.
    pub fn ask(mut self, stop: Arc<AtomicBool>) -> JoinHandle<(Honest, Asked)> {
        tokio::spawn(async move {
            let mut asked = Asked::default();
            let mut next = tokio::time::interval(EVERY);
            next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !stop.load(Ordering::Relaxed) || asked.took.len() + asked.failed.len() < FEW {
                next.tick().await;
                let began = Instant::now();
                match self.once(asked.took.len()).await {
                    Ok(()) => asked.took.push(began.elapsed().as_secs_f64() * 1000.0),
                    Err(why) => asked.failed.push(why),
                }
            }
            (self, asked)
        })
    }

    async fn once(&mut self, number: usize) -> Result<(), String> {
        let lease_id = LeaseId([number as u8; 16]);
        let request = match number % 2 {
            0 => Request::Status(lease_id),
            _ => Request::Board { after: None, limit: 1, own: true },
        };
        let body = Frame::encode(node::clock::now(), request);
        let rpc = self.mesh.send(self.node, body).await.map_err(|error| error.to_string())?;
        let body = loop {
            match self.events.recv().await {
                Some(MeshEvent::Response { rpc: of, result }) if of == rpc => break result,
                Some(MeshEvent::Gossip { id, .. }) => drop(self.mesh.judge(id, Verdict::Ignore).await),
                Some(_) => {}
                None => return Err("the mesh has ended".into()),
            }
        };
        let body = body.map_err(|error| error.to_string())?;
        match Frame::<Response>::decode(&body).map_err(|error| format!("{error:?}"))?.body {
            Response::Board(_) | Response::Refused(Refusal::NoSuchLease(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// All of them ask for as long as the work takes.
pub async fn asking(honest: Vec<Honest>, work: impl Future) -> Result<(Vec<Honest>, Asked), JoinError> {
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = honest.into_iter().map(|peer| peer.ask(stop.clone())).collect();
    work.await;
    stop.store(true, Ordering::Relaxed);
    let (mut honest, mut all) = (Vec::new(), Asked::default());
    for task in tasks {
        let (peer, asked) = task.await?;
        honest.push(peer);
        all = all.and(asked);
    }
    Ok((honest, all))
}

/// Bytes of memory that a process holds now.
pub fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // Of 4 KiB on every machine that golemnode is built for.
    pages * 4096
}
