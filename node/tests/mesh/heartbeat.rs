//! Gossipsub 0.50 resets its heartbeat and score timers without polling them again: in an idle swarm both stop.
use super::support::*;
use node::mesh::limits;
use std::time::Duration;

/// Long against what is left in the timers when the swarm falls idle: each fires once more, and by the phase between
/// them (1 s and 3 s) they may revive each other once.
const IDLE: Duration = Duration::from_secs(14);

/// What the swarm of an idle node has done meanwhile, seen by the score of its neighbour: a point for each second in
/// the gossip mesh, as of the last time that scores were refreshed. Asking wakes the loop, but commands are taken
/// before the swarm is polled, so it shows what was done before it was asked.
async fn points_after_idling(seed: u8, tick: Option<Duration>) -> f64 {
    let mut idle = config(seed);
    (idle.tick, idle.relay) = (tick, None);
    let mut idle = Node::start(idle).await;
    let mut config = config(seed + 1);
    // It has all the company it wants, so it does not search the DHT, which would wake the other.
    (config.bootstrap, config.max_neighbours) = (vec![idle.addr().await], 1);
    // Nor does it want to be tested, for it listens nowhere.
    config.listen = Vec::new();
    let neighbour = Node::start(config).await;
    idle.subscribed_by(neighbour.id).await;
    let meshed = async {
        while !idle.mesh.peers().await.unwrap()[0].in_gossip_mesh {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the gossip mesh", meshed).await;
    // Not waiting for something: idling is what is measured.
    tokio::time::sleep(IDLE).await;
    idle.mesh.peers().await.unwrap()[0].gossip_score.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tick_keeps_gossip_alive_in_an_idle_swarm() {
    let (with, mut without) = tokio::join!(points_after_idling(40, Some(limits::TICK)), points_after_idling(42, None));
    assert!(with >= 10.0, "the tick keeps the timers going: {with}");
    // On a busy machine its timers may happen to keep each other going for that long; a cured library always does.
    for seed in [44, 46, 48] {
        if without <= 8.0 {
            return;
        }
        without = points_after_idling(seed, None).await;
    }
    panic!("the library is cured ({without}); the tick can go");
}
