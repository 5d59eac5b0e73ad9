//! Can others reach a node, and what if not: tests from outside, relays, holes.
use super::support::*;
use node::mesh::{MeshConfig, MeshEvent, MeshHandle, Path, Reachability, Refused, RelayLimits, limits};
use protocol::PeerId;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

impl Node {
    /// What is told when it is as wanted.
    async fn reach(&mut self, wanted: impl Fn(Reachability, &[String]) -> bool) -> (String, Vec<String>) {
        self.until("its reachability", |event| match event {
            MeshEvent::Reachability { state, why, addrs } if wanted(state, &addrs) => Some((why, addrs)),
            _ => None,
        })
        .await
    }
    /// Its addresses, as soon as so many relays call it.
    async fn called_by(&mut self, relays: usize) -> Vec<String> {
        let circuits = |addrs: &[String]| addrs.iter().filter(|addr| addr.contains("/p2p-circuit/")).count();
        self.reach(|state, addrs| state == Reachability::Private && circuits(addrs) >= relays).await.1
    }
}

async fn path_to(mesh: &MeshHandle, peer: PeerId) -> Option<Path> {
    let peers = mesh.peers().await.unwrap();
    peers.iter().find(|info| info.peer == peer).map(|info| info.path)
}

async fn path_becomes(mesh: &MeshHandle, peer: PeerId, wanted: impl Fn(Option<Path>) -> bool) {
    let change = async {
        while !wanted(path_to(mesh, peer).await) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, change).await.is_err() {
        panic!("in vain: another path than {:?}; {:?}", path_to(mesh, peer).await, mesh.metrics());
    }
}

/// Nobody can dial it, and it knows.
fn hidden(seed: u8, relays: &[&str]) -> MeshConfig {
    let mut config = config(seed);
    config.listen = Vec::new();
    config.bootstrap = relays.iter().map(|relay| relay.to_string()).collect();
    config
}

/// A node that has been visited, and so knows that it can be: from then on it relays.
async fn relay(seed: u8, limits: RelayLimits) -> (Node, String, MeshHandle) {
    let mut config = config(seed);
    config.relay = Some(limits);
    let mut relay = Node::start(config).await;
    let addr = relay.addr().await;
    let visitor = Node::start(hidden(seed + 100, &[&addr])).await.serve();
    relay.reach(|state, _| state == Reachability::Public).await;
    (relay, addr, visitor)
}

#[tokio::test]
async fn a_node_is_tested_by_those_it_dials_and_by_those_who_come() {
    let mut first = Node::start(config(60)).await;
    let mut second = config(61);
    second.bootstrap = vec![first.addr().await];
    second.listen = vec![TCP.to_owned(), QUIC.to_owned()];
    let mut second = Node::start(second).await;
    let (why, addrs) = first.reach(|state, _| state == Reachability::Public).await;
    assert!(why.contains("a peer connected to /ip4/127.0.0.1/tcp/"), "{why}");
    assert_eq!(addrs, [first.addr().await]);
    let (why, addrs) = second.reach(|state, _| state == Reachability::Public).await;
    assert!(why.ends_with("nobody outside this machine was met"), "{why}");
    let own = second.mesh.listen_addrs().await.unwrap();
    assert!(!addrs.is_empty() && addrs.iter().all(|addr| own.contains(addr)), "{addrs:?} of {own:?}");
    // Its other address may have been tried by now, too.
    let external = second.mesh.external_addrs().await.unwrap();
    assert!(addrs.iter().all(|addr| external.contains(addr)), "{addrs:?} of {external:?}");
    assert!(external.iter().all(|addr| own.contains(addr)), "{external:?} of {own:?}");
    // The connections that were made for the tests are not kept.
    let alone = async {
        while first.mesh.peers().await.unwrap()[0].connections > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("one connection", alone).await;
}

#[tokio::test]
async fn who_listens_nowhere_is_private_and_called_by_a_relay() {
    let (relay, addr, _visitor) = relay(62, RelayLimits::default()).await;
    let mut node = Node::start(hidden(63, &[&addr])).await;
    let (why, addrs) = node.reach(|_, _| true).await;
    assert_eq!((why.as_str(), addrs.len()), ("it listens nowhere, so nobody can connect to it", 0));
    let addrs = node.called_by(1).await;
    assert_eq!(addrs, [format!("{addr}/p2p-circuit/p2p/{}", node.id)]);
    assert_eq!(node.mesh.external_addrs().await.unwrap(), addrs);
    assert!(node.mesh.listen_addrs().await.unwrap().is_empty());
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_tunnels_go_through_a_relay() {
    let (relay, addr, _visitor) = relay(64, RelayLimits::default()).await;
    let mut node = Node::start(hidden(65, &[&addr])).await;
    let addrs = node.called_by(1).await;
    let (id, relay_id) = (node.id, relay.id);
    let far = node.serve();
    // One-shot nodes come this way, too.
    let mut client = hidden(66, &[]);
    client.server = false;
    let mut client = Node::start(client).await;
    client.mesh.add_address(id, &addrs[0]).await.unwrap();
    let rpc = client.mesh.send(id, b"hello".to_vec()).await.unwrap();
    assert_eq!(client.answer_to(rpc).await, Ok(b"hello".to_vec()));
    assert_eq!(path_to(&client.mesh, id).await, Some(Path::Relayed { relay: relay_id }));
    // Its answer may be there before it has been told who asked.
    let known = async {
        loop {
            if let Some(path) = path_to(&far, client.id).await {
                return path;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(soon("the caller is known", known).await, Path::Relayed { relay: relay_id });
    let relay = relay.serve();
    let stream = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    echo(stream, 20 << 20).await;
    let counted = async {
        while relay.metrics().relay_bytes < 40 << 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("what was carried is charged", counted).await;
    assert_eq!(
        (relay.metrics().relay_reservations, relay.metrics().relay_circuits),
        (2, 1),
        "the visitor has one, too"
    );
}

#[tokio::test]
async fn one_reservation_too_many_is_refused() {
    let limits = RelayLimits { reservations: 2, ..RelayLimits::default() };
    let (mut relay, addr, _visitor) = relay(67, limits).await;
    let mut second = Node::start(hidden(68, &[&addr])).await;
    second.called_by(1).await;
    let third = Node::start(hidden(69, &[&addr])).await;
    let refused = |event| match event {
        MeshEvent::Refused { peer, why } => Some((peer, why)),
        _ => None,
    };
    assert_eq!(relay.until("a refusal", refused).await, (third.id, Refused::Relay));
    assert!(third.mesh.external_addrs().await.unwrap().is_empty());
    let id = third.id;
    let third = third.serve();
    // With a place that has become free it has its turn.
    second.mesh.shutdown().await;
    let called = async {
        while third.external_addrs().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let deadline = limits::RELAY_AVOID + DEADLINE;
    tokio::time::timeout(deadline, called).await.unwrap_or_else(|_| panic!("{id} is never called"));
}

#[tokio::test]
async fn circuits_are_bounded_for_each_holder_and_in_bytes() {
    let limits = RelayLimits { circuits_per_holder: 1, circuit_bytes: 1 << 20, ..RelayLimits::default() };
    let (mut relay, addr, _visitor) = relay(70, limits).await;
    let mut node = Node::start(hidden(71, &[&addr])).await;
    let addrs = node.called_by(1).await;
    let id = node.id;
    node.serve();
    let (first, mut second) = (Node::start(hidden(72, &[])).await, Node::start(hidden(73, &[])).await);
    for client in [&first, &second] {
        client.mesh.add_address(id, &addrs[0]).await.unwrap();
    }
    let mut stream = soon("a tunnel", first.mesh.open_stream(id)).await.unwrap();
    let rpc = second.mesh.send(id, vec![1]).await.unwrap();
    assert!(second.answer_to(rpc).await.is_err());
    let refused = |event| matches!(event, MeshEvent::Refused { why: Refused::Relay, .. }).then_some(());
    relay.until("a refusal", refused).await;
    // What one circuit may carry, counted both ways: then it is cut off.
    let carried = async {
        let (mut carried, mut chunk) = (0_u64, vec![7; 64 * 1024]);
        while stream.write_all(&chunk).await.is_ok() && stream.read_exact(&mut chunk).await.is_ok() {
            carried += 2 * chunk.len() as u64;
        }
        carried
    };
    let carried = soon("an end", carried).await;
    assert!((1 << 19..=1 << 20).contains(&carried), "{carried} bytes were carried");
}

#[tokio::test]
async fn what_is_carried_is_charged_to_who_is_called() {
    let limits = RelayLimits { budget: 1 << 20, ..RelayLimits::default() };
    let (mut relay, addr, _visitor) = relay(74, limits).await;
    let mut node = Node::start(hidden(75, &[&addr])).await;
    let addrs = node.called_by(1).await;
    let id = node.id;
    node.serve();
    let mut client = Node::start(hidden(76, &[])).await;
    client.mesh.add_address(id, &addrs[0]).await.unwrap();
    let mut stream = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    let mut chunk = vec![7; 64 * 1024];
    let spent =
        async { while stream.write_all(&chunk).await.is_ok() && stream.read_exact(&mut chunk).await.is_ok() {} };
    soon("an end", spent).await;
    // Nobody gets through to it any more, until the window is over.
    let rpc = client.mesh.send(id, vec![1]).await.unwrap();
    assert!(client.answer_to(rpc).await.is_err());
    let refused = |event| match event {
        MeshEvent::Refused { peer, why: Refused::Relay } => Some(peer),
        _ => None,
    };
    assert_eq!(relay.until("a refusal", refused).await, client.id);
}

#[tokio::test]
async fn a_relay_that_ends_is_replaced() {
    let (first, first_addr, _visitor) = relay(77, RelayLimits::default()).await;
    let (second, second_addr, _visitor2) = relay(78, RelayLimits::default()).await;
    let (third, third_addr, _visitor3) = relay(79, RelayLimits::default()).await;
    let mut node = Node::start(hidden(80, &[&first_addr, &second_addr, &third_addr])).await;
    let addrs = node.called_by(limits::RELAYS).await;
    assert_eq!(addrs.len(), limits::RELAYS);
    let relays = [(first, first_addr), (second, second_addr), (third, third_addr)];
    let mut kept = Vec::new();
    let mut ended = None;
    for (relay, addr) in relays {
        let used = addrs.iter().any(|circuit| circuit.starts_with(&addr));
        if used && ended.is_none() {
            relay.mesh.shutdown().await;
            ended = Some(addr);
        } else {
            kept.push((relay.serve(), addr));
        }
    }
    let ended = ended.unwrap();
    let addrs =
        node.reach(|_, addrs| addrs.len() == limits::RELAYS && addrs.iter().all(|a| !a.starts_with(&ended))).await.1;
    assert!(addrs.iter().all(|addr| kept.iter().any(|(_, relay)| addr.starts_with(relay))), "{addrs:?}");
}

/// Two nodes that take themselves for unreachable and are not: what the relay has brought together gets a direct
/// connection, new tunnels take it, and what is open stays.
async fn punched(listen: &str, seed: u8) {
    let (relay, addr, _visitor) = relay(seed, RelayLimits::default()).await;
    let relay_id = relay.id;
    relay.serve();
    let shy = |seed: u8| MeshConfig {
        assume: Some(Reachability::Private),
        listen: vec![listen.to_owned()],
        bootstrap: vec![addr.clone()],
        ..config(seed)
    };
    let mut node = Node::start(shy(seed + 1)).await;
    let circuits = node.called_by(1).await;
    let circuit = circuits.iter().find(|addr| addr.contains("/p2p-circuit/")).unwrap();
    let id = node.id;
    let far = node.serve();
    let mut client = Node::start(MeshConfig { max_neighbours: 1, ..shy(seed + 2) }).await;
    client.connected_to(relay_id).await;
    client.mesh.disconnect(id).await.unwrap();
    client.mesh.dial(circuit).await.unwrap();
    let mut old = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    old.write_all(b"before ").await.unwrap();
    path_becomes(&client.mesh, id, |path| path == Some(Path::HolePunched)).await;
    path_becomes(&far, client.id, |path| matches!(path, Some(Path::HolePunched | Path::Direct))).await;
    let stream = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    echo(stream, 5 << 20).await;
    // Longer than a superfluous connection is kept: this one is in use.
    tokio::time::sleep(limits::SPARE_KEPT * 2).await;
    old.write_all(b"and after").await.unwrap();
    let mut got = [0; 16];
    soon("an echo", old.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"before and after");
    // Both may have called each other by the relay at first: then one of the two connections is closed already.
    let before = far.metrics().relayed_closed + client.mesh.metrics().relayed_closed;
    drop(old);
    // What is asked over it meanwhile is answered, too, though only by the other connection.
    let closed = async {
        // As fast as a peer may ask.
        let mut turns = tokio::time::interval(Duration::from_secs(1).div_f64(limits::REQUEST_RATE));
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut after = 0;
        while after < 10 {
            turns.tick().await;
            let rpc = client.mesh.send(id, b"still here".to_vec()).await.unwrap();
            assert_eq!(client.answer_to(rpc).await, Ok(b"still here".to_vec()));
            after += u32::from(far.metrics().relayed_closed + client.mesh.metrics().relayed_closed > before);
        }
    };
    soon("the relayed connection is closed", closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_survives_the_hole_that_is_punched_over_tcp() {
    punched(TCP, 81).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_survives_the_hole_that_is_punched_over_quic() {
    punched(QUIC, 84).await;
}

/// Carries connections to `target` until it is told to stop; then it holds them, and says nothing any more.
async fn wire(target: String) -> (std::net::SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(&target).await.unwrap();
            let mut is_cut = is_cut.clone();
            held.push(tokio::spawn(async move {
                let carried = tokio::io::copy_bidirectional(&mut from, &mut to);
                tokio::select! {
                    _ = carried => {}
                    _ = is_cut.changed() => std::future::pending().await,
                }
            }));
        }
    });
    (addr, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_takes_another_way_when_the_connection_is_dead() {
    let far = Node::start(config(87)).await;
    let (id, addr) = (far.id, far.addr().await);
    far.serve();
    let port = addr.split('/').nth(4).unwrap().to_owned();
    let (by, cut) = wire(format!("127.0.0.1:{port}")).await;
    let client = Node::start(hidden(88, &[])).await;
    client.mesh.dial(&format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", by.port())).await.unwrap();
    echo(soon("a tunnel", client.mesh.open_stream(id)).await.unwrap(), 1000).await;
    client.mesh.add_address(id, &addr).await.unwrap();
    cut.send(true).unwrap();
    // Neither end has noticed; pings would, after more than a minute.
    let started = std::time::Instant::now();
    echo(soon("a tunnel", client.mesh.open_stream(id)).await.unwrap(), 1000).await;
    assert!((limits::REOPEN_AFTER..limits::OPEN_DEADLINE).contains(&started.elapsed()), "{:?}", started.elapsed());
    // The next one knows.
    let started = std::time::Instant::now();
    echo(soon("a tunnel", client.mesh.open_stream(id)).await.unwrap(), 1000).await;
    assert!(started.elapsed() < limits::REOPEN_AFTER, "{:?}", started.elapsed());
}
