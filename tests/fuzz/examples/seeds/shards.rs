//! What holders of shards are asked, and what they answer.
use fuzz::world::{self, key};
use protocol::board::{PageItem, Posting};
use protocol::envelope::{Sealed, Signed};
use protocol::shard::{
    Block, Child, Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shared, Shelf, Standing, State,
    indexes_of,
};
use protocol::spec::Query;
use protocol::units::Millis;

fn signed() -> Signed {
    let by = key(4);
    Sealed::seal(world::advert(&by), &by).signed().clone()
}

fn shard(depth: u8) -> Shard {
    let advert = world::advert(&key(4));
    Shard::of(indexes_of(&advert)[0].clone(), depth, advert.provider)
}

/// How deep a neighbour has found a tree.
pub fn depths() -> Vec<(Index, u8)> {
    vec![(shard(0).index, 9)]
}

fn closer() -> Vec<Server> {
    let addrs = "/ip4/45.60.0.1/tcp/4001".parse().into_iter().collect();
    vec![(*Server::new(key(5).peer_id(), addrs)).clone()]
}

pub fn requests() -> Vec<ShardRequest> {
    let (posting, shard) = (Posting::Advert(signed()), shard(3));
    let state = State { shard: shard.clone(), below: Some(90), folded: false, total: Some(1000) };
    let block = Block::of_ip(std::net::Ipv4Addr::new(45, 60, 0, 1).into());
    let shared = Shared { shard: shard.clone(), posting: posting.clone(), life: Millis::secs(200), block };
    let (after, until) = (key(5).peer_id(), key(5).peer_id());
    let beside = shard.next_alternate().expect("it has one");
    vec![
        ShardRequest::Put { shard: shard.clone(), posting: posting.clone(), also: Some(key(5).peer_id()) },
        ShardRequest::Put { shard: beside, posting, also: None },
        ShardRequest::Ask { shard: shard.clone(), query: Query::default(), after, until, limit: 8 },
        ShardRequest::Share { items: vec![shared], states: vec![state.clone()] },
        ShardRequest::Snapshot { shard: shard.clone(), after: None },
        ShardRequest::Count(Child { shard, adverts: 12, leaf: true }),
        ShardRequest::Invite(vec![state.clone()]),
        ShardRequest::Relieve(state),
    ]
}

pub fn responses() -> Vec<ShardResponse> {
    let item = PageItem { advert: signed(), life: Millis::secs(200) };
    let put = |go| ShardResponse::Put(PutAnswer { kept: true, go, adverts: 9, total: Some(70), closer: closer() });
    let shelf = |standing| Shelf {
        items: vec![item.clone()],
        sample: None,
        next: Some(key(4).peer_id()),
        adverts: 9,
        standing,
    };
    vec![
        put(Go::Stay),
        put(Go::Down { below: 90 }),
        put(Go::Up),
        ShardResponse::NotHolder { closer: closer() },
        ShardResponse::Shelf(shelf(Standing::Leaf)),
        ShardResponse::Shelf(shelf(Standing::Split { below: 90 })),
        ShardResponse::Elsewhere(closer().remove(0)),
        ShardResponse::Noted,
        ShardResponse::Counted { merged: false, total: Some(70), closer: closer() },
    ]
}

/// Steps of a play: what the arguments mean is in `world/shards.rs`.
pub fn steps(kind: u8) -> Vec<u8> {
    // The node and who asks; a key and a sequence number; a shard of the first index, three deep; then which question.
    let mut args = vec![1, 1, 1];
    args.extend(9u64.to_le_bytes());
    args.extend([1, 3, 3, 0, kind]);
    args.extend([1; 24]);
    args
}
