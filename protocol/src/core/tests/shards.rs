//! The sharded board, as one node has it.
use super::*;
use crate::shard::{Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shelf, Standing};
use std::collections::BTreeSet;
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

/// Classes in which there is nothing must not use up the turns of the one that has a tree.
#[test]
fn a_search_looks_at_every_leaf_of_the_last_class_too() {
    let mut node = Node::new(1);
    let servers: Vec<Arc<Server>> = (2..8).map(server).collect();
    node.input(Input::Vicinity { own: None, servers: servers.clone() });
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
    let classes = crate::shard::indexes_for(&query);
    let [last] = classes.iter().map(|tier| tier.last().unwrap().clone()).collect::<Vec<Index>>().try_into().unwrap();
    assert!(classes[0].len() > 2);
    let mut leaves: BTreeSet<Shard> = BTreeSet::new();
    let mut effects = node.input(Input::Search { query, wanted: 1 });
    while !effects.is_empty() {
        let mut next = Vec::new();
        for effect in &effects {
            if let Effect::FindHolders { ticket, .. } = effect {
                next.extend(node.input(Input::Holders { ticket: *ticket, servers: servers.clone() }));
            }
        }
        for (rpc, _, asked) in sent(&effects) {
            let Request::Shard(ShardRequest::Ask { shard, .. }) = asked else { panic!("{asked:?}") };
            // Two bits deep, a hundred adverts in each leaf, none of which fits.
            let (adverts, standing) = match (shard.index == last, shard.depth) {
                (true, 0..2) => (0, Standing::Split { below: 400 >> shard.depth }),
                (true, 2) => (100, Standing::Leaf),
                _ => (0, Standing::Absent),
            };
            if standing == Standing::Leaf {
                leaves.insert(shard);
            }
            let shelf = ShardResponse::Shelf(Shelf { items: vec![], next: None, adverts, standing });
            let body = Frame::encode(node.now, Response::Shard(shelf));
            next.extend(node.input(Input::Response { rpc, result: Ok(body) }));
        }
        effects = next;
    }
    assert!(!node.core.is_searching());
    assert_eq!(leaves.len(), 4, "{leaves:?}");
}
