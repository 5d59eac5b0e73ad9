//! Malformed frames by the thousand, for every protocol, over real connections: the node lives, holds no more than it
//! must, and answers the others all along. `make hostile-full` does it with a million each, and looks at the times.
use protocol::PeerId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::Home;
use tests::hand::attack::{self, Attack};
use tests::hand::frames::Target;
use tests::hand::honest::{Honest, resident};

const FRAMES: u64 = 3_000;
const CONNECTIONS: usize = 24;
const MOST_GROWTH: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_of_every_protocol_harm_nobody() {
    let home = Home::new();
    let node = home.node(&["--provide", "--backend", "memory", "--network", "test"]);
    let (addr, id): (String, PeerId) = (node.addr(), node.peer_id().parse().unwrap());
    let mut honest = Honest::join(1, &addr, id, &"test".parse().unwrap()).await;
    let rest = resident(node.pid());
    for target in Target::ALL {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = honest.ask(stop.clone());
        let attack = Attack {
            addr: addr.clone(),
            network: "test".into(),
            target,
            frames: FRAMES,
            connections: CONNECTIONS,
            seed: 1,
        };
        let outcome = attack::run(attack).await;
        stop.store(true, Ordering::Relaxed);
        let (peer, asked) = asking.await.unwrap();
        honest = peer;
        println!("{target:?}: {outcome:?}; p99 {:.1} ms of {}", asked.percentile(99.0), asked.took.len());
        assert_eq!(outcome.frames, FRAMES);
        assert!(asked.failed.is_empty(), "{target:?}: {:?}", asked.failed);
        assert!(!asked.took.is_empty());
        let growth = resident(node.pid()).saturating_sub(rest);
        assert!(growth <= MOST_GROWTH, "{target:?}: it grew by {} MiB", growth >> 20);
    }
    let log = node.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(node.status()["board"]["adverts"], 1, "its own");
}
