//! Sixty nodes that all join through one: each settles with a bounded set of neighbours, and gossip reaches all.
use super::support::*;
use node::mesh::{MeshEvent, MeshHandle, Verdict, limits};
use protocol::Keypair;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 60;

async fn join(seed: usize, bootstrap: Vec<String>, heard: Arc<AtomicUsize>) -> (MeshHandle, String) {
    let mut secret = [70; 32];
    secret[0] = seed as u8;
    let mut config = config(0);
    (config.keypair, config.bootstrap) = (Keypair::from_secret(&secret), bootstrap);
    // Whom a relay calls it keeps beyond the bound; on a busy machine nodes may think that they need one.
    config.relay = None;
    let mut node = Node::start(config).await;
    let (mesh, addr) = (node.mesh.clone(), node.addr().await);
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let MeshEvent::Gossip { id, .. } = event {
                heard.fetch_add(1, Ordering::Relaxed);
                node.mesh.judge(id, Verdict::Accept).await.unwrap();
            }
        }
    });
    (mesh, addr)
}

async fn degrees(nodes: &[MeshHandle]) -> Vec<usize> {
    let mut degrees = Vec::new();
    for node in nodes {
        degrees.push(node.peers().await.unwrap().len());
    }
    degrees
}

fn opened(nodes: &[MeshHandle]) -> u64 {
    nodes.iter().map(|node| node.metrics().connections_opened).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_nodes_settle_stay_connected_and_stop_churning() {
    let heard = Arc::new(AtomicUsize::new(0));
    let (first, addr) = join(0, vec![], heard.clone()).await;
    let mut nodes = vec![first];
    for seed in 1..NODES {
        nodes.push(join(seed, vec![addr.clone()], heard.clone()).await.0);
    }
    // The bootstrap node is kept on top of the bound by those who name it; it keeps no more than the bound itself.
    let bound = limits::MAX_NEIGHBOURS + 1;
    // Each looks itself up once within this, and calls on a dozen others for it; who came last may have begun just now.
    let looked_up = Instant::now() + 2 * limits::REFRESH_FIRST + limits::VISIT;
    let settled = async {
        loop {
            let degrees = degrees(&nodes).await;
            let bounded = degrees[0] <= limits::MAX_NEIGHBOURS && degrees.iter().all(|n| (3..=bound).contains(n));
            if bounded && Instant::now() >= looked_up {
                return degrees;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let degrees_then = tokio::time::timeout(Duration::from_secs(150), settled).await;
    let Ok(degrees_then) = degrees_then else { panic!("not settled: {:?}", degrees(&nodes).await) };
    println!("settled: {degrees_then:?}, {} connections made in all", opened(&nodes) / 2);

    // The time in which nothing may happen is what is measured.
    let before = opened(&nodes);
    tokio::time::sleep(limits::VISIT + Duration::from_secs(2)).await;
    let made = (opened(&nodes) - before) / 2;
    let now = degrees(&nodes).await;
    println!("{made} connections made in the {} s after; {now:?}", limits::VISIT.as_secs() + 2);
    assert!(now.iter().all(|degree| (1..=bound).contains(degree)), "{now:?}");
    assert!(made as usize <= NODES, "{made} connections in a mesh at rest");

    heard.store(0, Ordering::Relaxed);
    for (publisher, body) in [(1, b"one"), (NODES - 1, b"two")] {
        nodes[publisher].publish(body.to_vec()).await.unwrap();
    }
    let all = 2 * (NODES - 1);
    let reached = async {
        while heard.load(Ordering::Relaxed) < all {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(DEADLINE, reached).await;
    assert!(reached.is_ok(), "{} of {all} heard it", heard.load(Ordering::Relaxed));
}
