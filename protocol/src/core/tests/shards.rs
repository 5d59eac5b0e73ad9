//! The sharded board, as one node has it.
use super::*;
use crate::shard::{Go, PutAnswer, Server, ShardRequest, ShardResponse};
use std::sync::Arc;

fn server(n: u8) -> Arc<Server> {
    Server::new(key(n).peer_id(), vec![format!("/ip4/16.{n}.0.1/tcp/4001").parse().unwrap()])
}

#[test]
fn who_started_alone_puts_its_advert_to_whoever_comes() {
    let mut node = Node::provider(1);
    let effects = node.input(Input::Vicinity { own: Some(server(1)), servers: vec![] });
    for effect in effects {
        if let Effect::FindHolders { ticket, .. } = effect {
            node.input(Input::Holders { ticket, servers: vec![] });
        }
    }
    assert_eq!(node.core.shards().acknowledged(), 1, "by itself");
    let effects = node.input(Input::Vicinity { own: Some(server(1)), servers: vec![server(2)] });
    let puts =
        sent(&effects).into_iter().filter(|(_, _, asked)| matches!(asked, Request::Shard(ShardRequest::Put { .. })));
    let puts: Vec<u64> = puts.filter(|(_, to, _)| *to == key(2).peer_id()).map(|(rpc, ..)| rpc).collect();
    assert!(!puts.is_empty(), "at once, not when the lookup is an hour old");
    for rpc in puts {
        let answer = PutAnswer { kept: true, go: Go::Stay, adverts: 1, total: None, closer: vec![] };
        let body = Frame::encode(node.now, Response::Shard(ShardResponse::Put(answer)));
        node.input(Input::Response { rpc, result: Ok(body) });
    }
    assert_eq!(node.core.shards().acknowledged(), 2);
}
