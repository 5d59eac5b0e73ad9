//! Many ids on the addresses of one site, in memory, where everybody has the address of their choice.
use super::support::*;
use node::mesh::link::Links;
use node::mesh::{Carriers, MeshConfig, MeshEvent, Refused, limits};
use std::time::Duration;

/// One address for each test's node: the tests of this process share one memory.
fn at(seed: u8, ip: &str) -> MeshConfig {
    let carriers = Carriers::Memory(Links::new(|_, _| Duration::ZERO));
    MeshConfig { carriers, listen: vec![format!("/ip4/{ip}/tcp/4001")], ..config(seed) }
}

#[tokio::test]
async fn many_ids_on_one_site_have_no_more_tunnels_than_four() {
    let server = Node::start(at(230, "198.51.100.230")).await;
    let (id, bootstrap, metrics) = (server.id, vec![server.addr().await], server.mesh.clone());
    let join = async |seed: u8, ip: &str| {
        let mut peer = Node::start(MeshConfig { bootstrap: bootstrap.clone(), ..at(seed, ip) }).await;
        peer.connected_to(id).await;
        peer
    };
    let mut server = server;
    let serving = tokio::spawn(async move {
        let mut taken = Vec::new();
        let (from, why) = server
            .until("a refusal", |event| match event {
                MeshEvent::Stream { stream, .. } => {
                    taken.push(stream);
                    None
                }
                MeshEvent::Refused { peer, why } => Some((peer, why)),
                _ => None,
            })
            .await;
        (server, taken, from, why)
    });
    // Each stays below what one may have.
    let each = limits::MAX_TUNNELS_PER_SITE / 5 + 1;
    assert!(each < limits::MAX_TUNNELS_PER_PEER);
    let (mut ids, mut open) = (Vec::new(), Vec::new());
    for n in 1..=5 {
        let peer = join(230 + n, &format!("203.0.113.{}", 50 * n)).await;
        for _ in 0..each {
            open.push(soon("a tunnel", peer.mesh.open_stream(id)).await.unwrap());
        }
        ids.push(peer);
    }
    let (mut server, taken, from, why) = soon("a refusal", serving).await.unwrap();
    assert_eq!((why, from, taken.len()), (Refused::Site, ids[4].id, limits::MAX_TUNNELS_PER_SITE));
    assert!(metrics.metrics().refused(Refused::Site) > 0);
    // Next door there is room, and here when somebody goes.
    let neighbour = join(239, "203.0.114.1").await;
    let came = |event| matches!(event, MeshEvent::Stream { from, .. } if from == neighbour.id).then_some(());
    let _more = soon("a tunnel", neighbour.mesh.open_stream(id)).await.unwrap();
    server.until("a stream of the neighbour", came).await;
    drop(taken);
    let _again = soon("a tunnel", ids[0].mesh.open_stream(id)).await.unwrap();
    let came = |event| matches!(event, MeshEvent::Stream { from, .. } if from == ids[0].id).then_some(());
    server.until("a stream of the first", came).await;
}
