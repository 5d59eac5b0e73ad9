//! As many frames as are wanted, over as many connections as the node takes, as fast as it takes them.
use super::frames::{Frames, Target, identity, varint_framed};
use super::{Asked, Hand, IDENTIFY, IDENTIFY_PUSH, Names, PATIENCE};
use futures::{AsyncReadExt, AsyncWriteExt};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Connections at once: what a node keeps of neighbours and visitors is the most that it is worth trying.
pub const CONNECTIONS: usize = 48;
/// Streams at once on each.
const LANES: usize = 4;
/// Frames under one key; then it is another that nobody knows.
const FRAMES_A_KEY: u64 = 400;
/// A frame that the node neither answers nor ends by closing its stream: it waits for the rest.
const ANSWER: Duration = Duration::from_secs(1);
/// After a connection that was refused.
const PAUSE: Duration = Duration::from_millis(20);
/// Frames on one stream of gossip before another is opened.
const A_STREAM: usize = 64;

#[derive(Clone)]
pub struct Attack {
    pub addr: String,
    pub network: String,
    pub target: Target,
    pub frames: u64,
    pub connections: usize,
    pub seed: u64,
}

/// What was done, and how the node took it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub frames: u64,
    pub connections: u64,
    pub refused_connections: u64,
    /// What the node said to a frame, or did, and how often.
    pub answers: BTreeMap<String, u64>,
}

struct Front {
    attack: Attack,
    names: Names,
    left: AtomicU64,
    outcome: Mutex<Outcome>,
}

impl Front {
    /// Room for one more frame.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
    fn is_done(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
    fn note(&self, change: impl FnOnce(&mut Outcome)) {
        change(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner));
    }
    fn answered(&self, how: String) {
        self.note(|outcome| {
            outcome.frames += 1;
            *outcome.answers.entry(how).or_default() += 1;
        });
    }
}

/// Until all frames are sent.
pub async fn run(attack: Attack) -> Outcome {
    let front = Arc::new(Front {
        names: Names::of(&attack.network),
        left: AtomicU64::new(attack.frames),
        outcome: Mutex::default(),
        attack,
    });
    let soldiers = (0..front.attack.connections as u64).map(|number| tokio::spawn(soldier(front.clone(), number)));
    futures::future::join_all(soldiers.collect::<Vec<_>>()).await;
    front.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn soldier(front: Arc<Front>, number: u64) {
    let mut life = 0;
    while !front.is_done() {
        life += 1;
        let seed = front.attack.seed ^ number << 32 ^ life << 1;
        // Who attacks identify answers its question itself, every other time.
        let introduces_itself = front.attack.target != Target::Identify || life % 2 == 0;
        match Hand::connect(&front.attack.addr, &front.names, introduces_itself).await {
            Ok(hand) => {
                front.note(|outcome| outcome.connections += 1);
                fight(&front, hand, seed).await;
            }
            Err(_) => {
                front.note(|outcome| outcome.refused_connections += 1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One connection's life: it ends when the node has had enough, or the key is used up.
async fn fight(front: &Arc<Front>, mut hand: Hand, seed: u64) {
    let asked = std::mem::replace(&mut hand.asked, tokio::sync::mpsc::channel(1).1);
    let answering = tokio::spawn(answer_badly(front.clone(), asked, seed));
    let lanes = (0..LANES as u64).map(|lane| {
        let frames = Frames::new(front.attack.target, &front.names, &front.attack.network, seed ^ lane << 48);
        send(front, &hand, frames)
    });
    futures::future::join_all(lanes).await;
    answering.abort();
}

async fn send(front: &Front, hand: &Hand, mut frames: Frames) {
    let protocol = match front.attack.target {
        Target::Control => &front.names.control,
        Target::Gossip => &front.names.gossip,
        Target::Tunnel => &front.names.tunnel,
        Target::Kad => &front.names.kad,
        Target::Identify => IDENTIFY_PUSH,
    };
    for _ in 0..FRAMES_A_KEY / LANES as u64 {
        if front.is_done() {
            return;
        }
        let Ok(stream) = hand.open(protocol).await else { return };
        let sent = match front.attack.target {
            Target::Gossip => pour(front, stream, &mut frames).await,
            _ => one(front, stream, &mut frames).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A frame, and what comes of it.
async fn one(front: &Front, mut stream: libp2p::Stream, frames: &mut Frames) -> io::Result<()> {
    if !front.take() {
        return Ok(());
    }
    let (bytes, _) = frames.another();
    // Cut short, it is whole only when the stream has ended.
    let written = async {
        stream.write_all(&bytes).await?;
        stream.close().await
    };
    let written = timeout(ANSWER, written).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    // A stream whose protocol was never agreed on must not be touched again once it has failed: the library panics.
    let untouchable = matches!(&written, Err(error) if error.kind() != io::ErrorKind::TimedOut);
    if untouchable {
        front.answered("reset".to_owned());
        return Ok(());
    }
    let mut first = [0];
    let how = match timeout(ANSWER, stream.read(&mut first)).await {
        Ok(Ok(0)) => "closed".to_owned(),
        Ok(Ok(_)) if front.attack.target == Target::Control => status(first[0]).to_owned(),
        Ok(Ok(_)) => "answered".to_owned(),
        Ok(Err(_)) => "reset".to_owned(),
        Err(_) => "silence".to_owned(),
    };
    let failed = how == "reset";
    front.answered(how);
    if failed {
        return Ok(());
    }
    // To the end, so that the node is done with it.
    let mut rest = Vec::new();
    let _ = timeout(ANSWER, stream.take(1 << 20).read_to_end(&mut rest)).await;
    written.or(Ok(()))
}

/// A stream of gossip has many frames and no answers; one that is malformed ends it.
async fn pour(front: &Front, mut stream: libp2p::Stream, frames: &mut Frames) -> io::Result<()> {
    for _ in 0..A_STREAM {
        if !front.take() {
            break;
        }
        let (bytes, goes_on) = frames.another();
        let written = timeout(ANSWER, stream.write_all(&bytes)).await;
        let taken = matches!(written, Ok(Ok(())));
        front.answered(if taken { "taken" } else { "reset" }.to_owned());
        if !taken || !goes_on {
            break;
        }
    }
    // Until the node has read it all, and closes its side: what is left in a window when the connection ends is lost.
    let ended = async {
        stream.close().await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let _ = timeout(PATIENCE, ended).await;
    Ok(())
}

/// What the node asks us is answered too, and no better.
async fn answer_badly(front: Arc<Front>, mut asked: tokio::sync::mpsc::Receiver<Asked>, seed: u64) {
    let mut frames = Frames::new(front.attack.target, &front.names, &front.attack.network, !seed);
    while let Some(Asked { protocol, mut stream }) = asked.recv().await {
        if protocol.as_ref() == front.names.gossip {
            // It only listens to us: what it says itself is let go.
            tokio::spawn(async move {
                let mut sink = vec![0; 16 * 1024];
                while matches!(stream.read(&mut sink).await, Ok(read) if read > 0) {}
            });
            continue;
        }
        let bytes = match protocol.as_ref() == IDENTIFY {
            true if frames.rng_is_even() => varint_framed(identity(&front.names, &mut frames.rng)),
            _ => frames.another().0,
        };
        let said = async {
            stream.write_all(&bytes).await?;
            stream.close().await
        };
        if timeout(ANSWER, said).await.is_ok() && front.take() {
            front.answered(format!("asked for {}", last_part(protocol.as_ref())));
        }
    }
}

/// Of the control protocol: see `node/src/mesh/codec.rs`.
fn status(byte: u8) -> &'static str {
    match byte {
        0 => "malformed",
        1 => "oversized",
        2 => "rate",
        3 => "busy",
        _ => "unknown",
    }
}

fn last_part(protocol: &str) -> &str {
    protocol.rsplit('/').nth(1).unwrap_or(protocol)
}
