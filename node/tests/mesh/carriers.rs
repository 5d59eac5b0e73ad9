//! The same mesh over sockets and in memory, with the links' delays and every byte counted.
use super::support::*;
use node::mesh::link::Links;
use node::mesh::{Carriers, MeshConfig};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(40);

fn in_memory(seed: u8) -> MeshConfig {
    let mut config = config(seed);
    config.carriers = Carriers::Memory(Links::new(|_, _| DELAY));
    // One address for each test's node: the tests of this process share one memory.
    config.listen = vec![format!("/ip4/198.18.1.{seed}/tcp/4001")];
    config
}

async fn counted(first: MeshConfig, second: MeshConfig) -> (Node, Node) {
    const TOTAL: usize = 1 << 20;
    let (server, client) = connected(first, second).await;
    let id = server.id;
    let before = [server.mesh.metrics(), client.mesh.metrics()];
    let (far, near) = (server.mesh.clone(), client.mesh.clone());
    let serving = server.serve();
    echo(soon("a tunnel", near.open_stream(id)).await.unwrap(), TOTAL).await;
    for (now, then) in [far.metrics(), near.metrics()].iter().zip(&before) {
        let (came, went) = (now.bytes_in - then.bytes_in, now.bytes_out - then.bytes_out);
        println!("{TOTAL} bytes each way: {came} in, {went} out");
        let likely = TOTAL as u64..TOTAL as u64 * 11 / 10;
        assert!(likely.contains(&came) && likely.contains(&went), "{came} in, {went} out");
    }
    let server = Node { id, mesh: serving, events: tokio::sync::mpsc::channel(1).1 };
    (server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_counted_over_tcp_and_quic() {
    for (listen, seed) in [(TCP, 110), (QUIC, 112)] {
        let at = |seed| MeshConfig { listen: vec![listen.to_owned()], ..config(seed) };
        counted(at(seed), at(seed + 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_everything_works_and_takes_as_long_as_the_link() {
    let (server, mut client) = counted(in_memory(114), in_memory(115)).await;
    let began = Instant::now();
    let rpc = client.mesh.send(server.id, b"there and back".to_vec()).await.unwrap();
    assert_eq!(client.answer_to(rpc).await, Ok(b"there and back".to_vec()));
    let took = began.elapsed();
    println!("a request and its answer took {took:?} over a link of {DELAY:?}");
    assert!(took >= DELAY * 2, "{took:?}");
    let peers = client.mesh.peers().await.unwrap();
    assert!(peers[0].addrs[0].starts_with("/ip4/198.18.1.114/tcp/4001"), "{:?}", peers[0].addrs);
}

#[tokio::test]
async fn what_is_in_memory_and_what_is_not_do_not_meet() {
    let outside = Node::start(config(116)).await;
    // Nobody listens there on the machine itself.
    let inside = MeshConfig { listen: vec!["/ip4/127.0.0.117/tcp/1".to_owned()], ..in_memory(117) };
    let inside = Node::start(inside).await;
    for (node, addr) in [(&inside, outside.addr().await), (&outside, inside.addr().await)] {
        let error = soon("a refusal", node.mesh.dial(&addr)).await.unwrap_err();
        println!("{error}");
    }
}
