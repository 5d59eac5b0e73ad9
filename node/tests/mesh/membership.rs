//! Who is let in, who is not, and how a node joins.
use super::support::*;
use node::mesh::{Anchor, MeshConfig, MeshError, MeshEvent, Refused, spawn};
use protocol::ErrorCode;
use std::time::Duration;

#[tokio::test]
async fn another_network_is_cut_off_with_a_reason() {
    let mut one = Node::start(config(50)).await;
    let mut config = config(51);
    (config.network, config.bootstrap) = ("other".parse().unwrap(), vec![one.addr().await]);
    let mut other = Node::start(config).await;
    let refused = |event| match event {
        MeshEvent::Refused { peer, why } => Some((peer, why)),
        MeshEvent::PeerConnected(peer) => panic!("connected to {peer}"),
        _ => None,
    };
    // Whoever is told first hangs up, and the other may hear nothing.
    let refusal = tokio::select! {
        refusal = one.until("a refusal", refused) => refusal,
        refusal = other.until("a refusal", refused) => refusal,
    };
    assert!([(other.id, Refused::OtherNetwork), (one.id, Refused::OtherNetwork)].contains(&refusal), "{refusal:?}");
    let why = other
        .until("a failed bootstrap", |event| match event {
            MeshEvent::BootstrapFailed { why, .. } => Some(why),
            MeshEvent::PeerConnected(peer) => panic!("connected to {peer}"),
            _ => None,
        })
        .await;
    assert!(why.contains("another network"), "{why}");
    assert!(one.mesh.peers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dead_bootstrap_is_reported_once_and_joined_when_it_comes_up() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let addr = format!("/ip4/127.0.0.1/tcp/{free}");
    let mut early = config(52);
    early.bootstrap = vec![addr.clone()];
    let mut early = Node::start(early).await;
    let (failed, why) = early
        .until("a failed bootstrap", |event| match event {
            MeshEvent::BootstrapFailed { addr, why } => Some((addr, why)),
            _ => None,
        })
        .await;
    assert_eq!(failed, addr);
    assert!(why.to_lowercase().contains("refused"), "{why}");
    let mut late = config(53);
    late.listen = vec![addr];
    let late = Node::start(late).await;
    let joined = early.until("the late node", |event| match event {
        MeshEvent::PeerConnected(peer) => Some(peer),
        MeshEvent::BootstrapFailed { why, .. } => panic!("said twice: {why}"),
        _ => None,
    });
    assert_eq!(joined.await, late.id);
    assert!(early.mesh.metrics().dials >= 2);
}

#[tokio::test]
async fn a_banned_peer_is_cut_off_and_stays_out_until_it_is_forgiven() {
    let (mut keeper, mut pest) = pair(54, TCP).await;
    keeper.mesh.ban(pest.id).await.unwrap();
    pest.until("the cut", |e| matches!(e, MeshEvent::PeerDisconnected(_)).then_some(())).await;
    let refused = keeper
        .until("a refusal", |event| match event {
            MeshEvent::Refused { peer, why } => Some((peer, why)),
            MeshEvent::PeerConnected(_) => panic!("let in"),
            _ => None,
        })
        .await;
    assert_eq!(refused, (pest.id, Refused::Banned));
    assert!(keeper.mesh.peers().await.unwrap().is_empty());
    keeper.mesh.unban(pest.id).await.unwrap();
    keeper.connected_to(pest.id).await;
}

#[tokio::test]
async fn a_pinned_peer_is_dialled_again_when_it_is_lost() {
    let (keeper, mut leased) = pair(56, TCP).await;
    keeper.mesh.pin(leased.id).await.unwrap();
    assert!(keeper.mesh.peers().await.unwrap()[0].pinned);
    let addr = leased.addr().await;
    leased.mesh.shutdown().await;
    leased.until_end().await;
    let mut again = config(57);
    again.listen = vec![addr.split("/p2p/").next().unwrap().to_owned()];
    let mut again = Node::start(again).await;
    again.connected_to(keeper.id).await;
}

#[tokio::test]
async fn addresses_and_ports_that_cannot_be_used_are_faults_with_hints() {
    let first = Node::start(config(58)).await;
    let taken = first.addr().await.split("/p2p/").next().unwrap().to_owned();
    for (listen, bootstrap, code) in [
        (taken.as_str(), None, ErrorCode::PortBlocked),
        ("nonsense", None, ErrorCode::InvalidRequest),
        ("/ip4/127.0.0.1/udp/0", None, ErrorCode::InvalidRequest),
        (TCP, Some("example.org:4001"), ErrorCode::InvalidRequest),
        ("/ip4/203.0.113.7/tcp/0", None, ErrorCode::PortBlocked),
    ] {
        let mut config = config(59);
        config.listen = vec![listen.to_owned()];
        config.bootstrap = bootstrap.map(str::to_owned).into_iter().collect();
        let fault = spawn(config).await.err().unwrap_or_else(|| panic!("{listen} {bootstrap:?} was taken"));
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.hint.is_some(), "{fault}");
    }
    let refusal = first.mesh.dial("/ip4/127.0.0.1").await.unwrap_err();
    assert!(matches!(refusal, MeshError::BadAddress { .. }), "{refusal}");
}

#[tokio::test]
async fn listen_addresses_are_concrete_and_name_the_node() {
    let mut config = config(60);
    config.listen = vec![TCP.to_owned(), QUIC.to_owned()];
    let node = Node::start(config).await;
    let addrs = node.mesh.listen_addrs().await.unwrap();
    assert_eq!(addrs.len(), 2);
    for addr in &addrs {
        assert!(addr.ends_with(&format!("/p2p/{}", node.id)) && !addr.contains("/0"), "{addr}");
    }
    let dialler = Node::start(super::support::config(61)).await;
    assert_eq!(soon("a dial", dialler.mesh.dial(&addrs[1])).await, Ok(node.id));
}

#[tokio::test]
async fn anchors_are_gone_back_to_and_kept_without_any_room() {
    let (anchor, other) = (Node::start(config(216)).await, Node::start(config(217)).await);
    let (addr, bootstrap) = (anchor.addr().await, vec![other.addr().await]);
    let held = Anchor { peer: anchor.id, addrs: vec![addr], failures: 3 };
    let back = MeshConfig { anchors: vec![held.clone()], bootstrap, max_neighbours: 0, ..config(218) };
    let mut back = Node::start(back).await;
    let reached = back.until("the anchor is reached", |event| match event {
        MeshEvent::Anchors(anchors) => Some(anchors),
        _ => None,
    });
    assert_eq!(reached.await, [Anchor { failures: 0, ..held }]);
    let peers = back.mesh.peers().await.unwrap();
    let anchors: Vec<_> = peers.iter().filter(|peer| peer.anchor).map(|peer| peer.peer).collect();
    assert_eq!(anchors, [anchor.id]);
}

#[tokio::test]
async fn remembered_peers_are_joined_through_too() {
    let mut first = Node::start(config(62)).await;
    let mut config = config(63);
    config.remembered = vec![first.addr().await];
    let mut second = Node::start(config).await;
    first.connected_to(second.id).await;
    let (peer, addrs, agent) = second
        .until("identified", |event| match event {
            MeshEvent::PeerIdentified { peer, addrs, agent } => Some((peer, addrs, agent)),
            _ => None,
        })
        .await;
    assert_eq!((peer, addrs), (first.id, first.mesh.listen_addrs().await.unwrap()));
    assert!(agent.starts_with("golemnode/"));
}

#[tokio::test]
async fn two_parts_of_a_network_meet_when_their_bootstrap_comes_up() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let addr = format!("/ip4/127.0.0.1/tcp/{free}");
    let part = |seed: u8| {
        let mut config = config(seed);
        config.bootstrap = vec![addr.clone()];
        config
    };
    let mut one = Node::start(part(64)).await;
    let mut friend = part(65);
    friend.bootstrap.push(one.addr().await);
    let friend = Node::start(friend).await;
    one.connected_to(friend.id).await;
    let mut other = Node::start(part(66)).await;
    let mut hub = config(67);
    hub.listen = vec![addr.clone()];
    let hub = Node::start(hub).await;
    one.connected_to(hub.id).await;
    other.connected_to(one.id).await;
}

/// Every lookup makes a dozen visitors. With them the node has nothing to do unless they ask.
#[tokio::test]
async fn a_visitor_may_ask_and_is_told_of_once_it_stays() {
    let keeper = MeshConfig { max_neighbours: 1, ..config(200) };
    let (mut keeper, _neighbour) = connected(keeper, config(201)).await;
    let mut visitor = Node::start(MeshConfig { bootstrap: vec![keeper.addr().await], ..config(202) }).await;
    visitor.connected_to(keeper.id).await;
    let identified = async {
        while !keeper.mesh.peers().await.unwrap().iter().any(|peer| peer.peer == visitor.id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the visitor has identified itself", identified).await;
    let rpc = visitor.mesh.send(keeper.id, b"a question".to_vec()).await.unwrap();
    let token = keeper
        .until("the question", |event| match event {
            MeshEvent::Request { token, from, .. } if from == visitor.id => Some(token),
            MeshEvent::PeerConnected(peer) => panic!("told of {peer}"),
            _ => None,
        })
        .await;
    keeper.mesh.reply(token, b"an answer".to_vec()).await.unwrap();
    assert_eq!(visitor.answer_to(rpc).await, Ok(b"an answer".to_vec()));
    keeper.mesh.pin(visitor.id).await.unwrap();
    keeper.connected_to(visitor.id).await;
}
