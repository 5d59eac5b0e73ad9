//! Requests and tunnels.
use super::support::*;
use node::mesh::{MeshError, MeshEvent, Refused, RpcError, limits};
use protocol::Keypair;
use protocol::codec::MAX_MESSAGE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn talk_over(listen: &str, seed: u8) {
    let (server, mut client) = pair(seed, listen).await;
    let id = server.id;
    server.serve();
    for body in [b"hello".to_vec(), vec![], vec![9; MAX_MESSAGE]] {
        let rpc = client.mesh.send(id, body.clone()).await.unwrap();
        assert_eq!(client.answer_to(rpc).await, Ok(body));
    }
    let stream = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    echo(stream, 20 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_20_mb_each_way_over_tcp() {
    talk_over(TCP, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_20_mb_each_way_over_quic() {
    talk_over(QUIC, 3).await;
}

#[tokio::test]
async fn an_unanswered_request_times_out_and_a_dropped_one_says_so() {
    let (mut server, mut client) = pair(5, TCP).await;
    let silent = client.mesh.send(server.id, b"silence".to_vec()).await.unwrap();
    let dropped = client.mesh.send(server.id, b"drop".to_vec()).await.unwrap();
    let mut late = None;
    for _ in 0..2 {
        let (token, body) = server
            .until("a request", |event| match event {
                MeshEvent::Request { token, body, .. } => Some((token, body)),
                _ => None,
            })
            .await;
        match body.as_slice() {
            b"drop" => server.mesh.drop_request(token).await.unwrap(),
            _ => late = Some(token),
        }
    }
    assert!(matches!(client.answer_to(dropped).await, Err(RpcError::Dropped(_))));
    assert_eq!(client.answer_to(silent).await, Err(RpcError::Timeout(limits::RPC_TIMEOUT)));
    server.mesh.reply(late.unwrap(), b"too late".to_vec()).await.unwrap();
    let again = client.mesh.send(server.id, b"again".to_vec()).await.unwrap();
    server.serve();
    assert_eq!(client.answer_to(again).await, Ok(b"again".to_vec()));
}

#[tokio::test]
async fn oversized_messages_are_refused_before_they_are_sent() {
    let (server, client) = pair(7, TCP).await;
    let size = MAX_MESSAGE + 1;
    let refusal = client.mesh.send(server.id, vec![0; size]).await.unwrap_err();
    assert_eq!(refusal, MeshError::Oversized { size, limit: MAX_MESSAGE });
    assert_eq!(refusal.to_string(), "message of 262145 bytes, more than the 262144 allowed");
    let size = limits::MAX_GOSSIP + 1;
    let refusal = client.mesh.publish(vec![0; size]).await.unwrap_err();
    assert_eq!(refusal, MeshError::Oversized { size, limit: limits::MAX_GOSSIP });
}

#[tokio::test]
async fn a_peer_nobody_knows_is_unreachable_within_the_deadline() {
    let (_server, mut client) = pair(9, TCP).await;
    let nobody = Keypair::from_secret(&[99; 32]).peer_id();
    let rpc = client.mesh.send(nobody, vec![1]).await.unwrap();
    assert!(matches!(client.answer_to(rpc).await, Err(RpcError::Unreachable(_) | RpcError::Timeout(_))));
    let refusal = soon("a refusal", client.mesh.open_stream(nobody)).await.err().unwrap();
    assert!(matches!(refusal, MeshError::Unreachable(_) | MeshError::Timeout(_)), "{refusal}");
    let own = soon("a refusal", client.mesh.open_stream(client.id)).await.err().unwrap();
    assert!(own.to_string().contains("this node itself"));
}

#[tokio::test]
async fn a_peer_that_is_not_connected_is_found_through_the_dht() {
    let (hub, far) = pair(11, TCP).await;
    let mut config = config(13);
    (config.bootstrap, config.server) = (vec![hub.addr().await], false);
    let mut client = Node::start(config).await;
    client.connected_to(hub.id).await;
    let id = far.id;
    far.serve();
    let mut stream = soon("a tunnel", client.mesh.open_stream(id)).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    soon("an echo", stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"ping");
}

#[tokio::test]
async fn an_address_that_was_told_is_used() {
    let (far, mut client) = (Node::start(config(14)).await, Node::start(config(15)).await);
    client.mesh.add_address(far.id, &far.addr().await).await.unwrap();
    let id = far.id;
    far.serve();
    let rpc = client.mesh.send(id, b"x".to_vec()).await.unwrap();
    assert_eq!(client.answer_to(rpc).await, Ok(b"x".to_vec()));
}

#[tokio::test]
async fn who_asks_too_often_is_refused_and_told() {
    let (mut server, mut client) = pair(16, TCP).await;
    let (id, asks) = (server.id, 4 * limits::REQUEST_BURST as usize);
    let mesh = server.mesh.clone();
    let replier = server.mesh.clone();
    let refused = tokio::spawn(async move {
        server
            .until("a refusal", |event| match event {
                MeshEvent::Request { token, .. } => {
                    let mesh = replier.clone();
                    tokio::spawn(async move { mesh.reply(token, vec![]).await });
                    None
                }
                MeshEvent::Refused { peer, why } => Some((peer, why)),
                _ => None,
            })
            .await
    });
    let mut told = 0;
    for _ in 0..asks / 16 {
        let mut rpcs = Vec::new();
        for _ in 0..16 {
            rpcs.push(client.mesh.send(id, vec![1]).await.unwrap());
        }
        for _ in rpcs {
            let answer = client.until("an answer", |event| match event {
                MeshEvent::Response { result, .. } => Some(result),
                _ => None,
            });
            told += usize::from(answer.await == Err(RpcError::Dropped("we ask it too often".into())));
        }
        if told > 0 {
            break;
        }
    }
    assert!(told > 0, "none of {asks} requests was refused");
    assert_eq!(soon("a report", refused).await.unwrap(), (client.id, Refused::RequestRate));
    assert!(mesh.metrics().refused(Refused::RequestRate) > 0);
}

#[tokio::test]
async fn tunnels_of_one_peer_are_bounded() {
    let (mut server, client) = pair(18, TCP).await;
    let mut open = Vec::new();
    for _ in 0..limits::MAX_TUNNELS_PER_PEER + 1 {
        open.push(soon("a tunnel", client.mesh.open_stream(server.id)).await.unwrap());
    }
    let mut taken = Vec::new();
    let why = loop {
        let next = server
            .until("a stream or a refusal", |event| match event {
                MeshEvent::Stream { stream, .. } => Some(Ok(stream)),
                MeshEvent::Refused { why, .. } => Some(Err(why)),
                _ => None,
            })
            .await;
        match next {
            Ok(stream) => taken.push(stream),
            Err(why) => break why,
        }
    };
    assert_eq!((why, taken.len()), (Refused::Tunnels, limits::MAX_TUNNELS_PER_PEER));
    drop(taken.pop());
    let _one_more = soon("a tunnel", client.mesh.open_stream(server.id)).await.unwrap();
    server.until("one more stream", |event| matches!(event, MeshEvent::Stream { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_node_that_takes_no_events_still_takes_commands() {
    let (server, client) = pair(20, TCP).await;
    // Nobody reads the client's events: answers fill its channel, and then its slots.
    let sent = loop {
        match client.mesh.send(client.id, vec![1]).await {
            Ok(_) => {}
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(sent, MeshError::Busy(limits::MAX_RPCS));
    assert_eq!(soon("peers", client.mesh.peers()).await.unwrap()[0].peer, server.id);
    soon("a shutdown", client.mesh.shutdown()).await;
    assert_eq!(client.mesh.peers().await.unwrap_err(), MeshError::Stopped);
}
