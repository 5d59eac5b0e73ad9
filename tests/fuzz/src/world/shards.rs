//! The sharded board: what strangers ask of a holder, what the routing says, and what strangers answer to a search.
use super::{World, key};
use crate::Bytes;
use protocol::PeerId;
use protocol::advert::Advert;
use protocol::board::{Page, PageItem, Posting};
use protocol::core::Input;
use protocol::envelope::{Sealed, Signed};
use protocol::message::{Request, Response};
use protocol::shard::{
    Block, Child, Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shared, Shelf, Standing, State,
    indexes_of,
};
use protocol::spec::Query;
use protocol::units::Millis;
use std::sync::Arc;

/// An address of one of four sites, or of none.
pub fn block(input: &mut Bytes) -> Option<Block> {
    let ip = std::net::Ipv4Addr::new(45, 60, input.u8() & 3, 1);
    (input.u8() & 1 == 1).then(|| Block::of_ip(ip.into())).flatten()
}

fn servers(input: &mut Bytes) -> Vec<Server> {
    let of = |number: u8| {
        let text = format!("/ip4/45.{}.0.1/tcp/4001", 60 + (number >> 5));
        let addrs = text.parse().into_iter().collect();
        (*Server::new(key(number & 31).peer_id(), addrs)).clone()
    };
    (0..input.u8() & 15).map(|_| of(input.u8())).collect()
}

fn advert(world: &World, input: &mut Bytes) -> (PeerId, Signed, Advert) {
    let by = key(3 + input.u8() % 4);
    let advert = Advert { seq: input.u64(), issued: world.now, ..super::advert(&by) };
    (by.peer_id(), Sealed::seal(advert.clone(), &by).signed().clone(), advert)
}

/// The right shard of this advert, or one beside it, or one that cannot be.
fn shard(advert: &Advert, input: &mut Bytes) -> Shard {
    let indexes = indexes_of(advert);
    let index = match input.u8() & 7 {
        0 => Index::Whole,
        n => indexes[usize::from(n) % indexes.len()].clone(),
    };
    let right = Shard::of(index, input.u8() & 31, advert.provider);
    match input.u8() & 7 {
        0 => Shard { prefix: input.u64() as u32, ..right },
        1 => Shard { alternate: input.u8() & 7, ..right },
        2 => Shard { depth: input.u8(), ..right },
        _ => right,
    }
}

/// What a neighbour says of the tree that everybody's adverts stand in.
pub fn depth(input: &mut Bytes) -> (Index, u8) {
    (indexes_of(&super::advert(&key(3))).remove(0), input.u8() & 31)
}

fn state(shard: Shard, input: &mut Bytes) -> State {
    let below = (input.u8() & 1 == 1).then(|| u32::from(input.u16()));
    let total = (input.u8() & 1 == 1).then(|| input.u64() as u32);
    State { shard, below, folded: input.u8() & 1 == 1, total }
}

fn standing(input: &mut Bytes) -> Standing {
    match input.u8() & 3 {
        0 => Standing::Leaf,
        1 => Standing::Split { below: input.u64() as u32 },
        2 => Standing::Warming,
        _ => Standing::Absent,
    }
}

impl World {
    /// A question about a shard, in good form.
    pub(super) fn shard_request(&mut self, input: &mut Bytes) -> Request {
        let (provider, signed, body) = advert(self, input);
        let shard = shard(&body, input);
        let posting = Posting::Advert(signed);
        let more = 1 + u64::from(input.u8() & 3);
        Request::Shard(match input.u8() % 7 {
            0 => ShardRequest::Put { shard, posting, also: (input.u8() & 1 == 1).then_some(provider) },
            1 => {
                let (after, until, limit) = (key(input.u8()).peer_id(), key(input.u8()).peer_id(), input.u16());
                ShardRequest::Ask { shard, query: Query::default(), after, until, limit }
            }
            2 => {
                let life = Millis(input.u64() >> 30);
                let item = Shared { shard: shard.clone(), posting, life, block: block(input) };
                let states = (0..more).map(|_| state(shard.clone(), input)).collect();
                ShardRequest::Share { items: vec![item; more as usize], states }
            }
            3 => ShardRequest::Snapshot { shard, after: (input.u8() & 1 == 1).then_some(provider) },
            4 => ShardRequest::Count(Child { shard, adverts: input.u64() as u32, leaf: input.u8() & 1 == 1 }),
            5 => ShardRequest::Relieve(state(shard, input)),
            _ => ShardRequest::Invite((0..more).map(|_| state(shard.clone(), input)).collect()),
        })
    }

    /// An answer to one, whatever was asked.
    pub(super) fn shard_response(&mut self, input: &mut Bytes) -> Response {
        let (provider, advert, _) = advert(self, input);
        Response::Shard(match input.u8() % 5 {
            0 => {
                let go = match input.u8() & 3 {
                    0 => Go::Up,
                    1 => Go::Down { below: input.u64() as u32 },
                    _ => Go::Stay,
                };
                let total = (input.u8() & 1 == 1).then(|| input.u64() as u32);
                let (kept, adverts) = (input.u8() & 1 == 1, input.u64() as u32);
                ShardResponse::Put(PutAnswer { kept, go, adverts, total, closer: servers(input) })
            }
            1 => ShardResponse::NotHolder { closer: servers(input) },
            2 => {
                let item = PageItem { advert, life: Millis(input.u64() >> 30) };
                let (next, adverts) = ((input.u8() & 1 == 1).then_some(provider), input.u64() as u32);
                ShardResponse::Shelf(Shelf {
                    items: vec![item],
                    sample: None,
                    next,
                    adverts,
                    standing: standing(input),
                })
            }
            3 => {
                let total = (input.u8() & 1 == 1).then(|| input.u64() as u32);
                ShardResponse::Counted { merged: input.u8() & 1 == 1, total, closer: servers(input) }
            }
            _ => {
                return Response::Board(Page {
                    items: vec![PageItem { advert, life: Millis(1000) }],
                    ..Page::default()
                });
            }
        })
    }

    /// What the routing says of the servers around a node, or around a key that it has asked for.
    pub(super) fn routing(&mut self, input: &mut Bytes) {
        let node = self.node(input);
        let mut found: Vec<Arc<Server>> = servers(input).into_iter().map(Arc::new).collect();
        if input.u8() & 1 == 1 {
            found.extend(self.nodes.iter().map(|node| Server::new(node.id(), Vec::new())));
        }
        let event = match input.u8() & 1 {
            0 => {
                let own = (input.u8() & 3 != 0).then(|| Server::new(self.nodes[node].id(), Vec::new()));
                Input::Vicinity { own, servers: found }
            }
            _ => {
                let ticket = self.nodes[node].tickets.pop().unwrap_or(u64::from(input.u8()));
                Input::Holders { ticket, servers: found }
            }
        };
        self.input(node, event);
    }

    /// Somebody looks for providers.
    pub(super) fn search(&mut self, input: &mut Bytes) {
        let (node, wanted) = (self.node(input), usize::from(input.u16()));
        let arch = (input.u8() & 1 == 1).then_some(protocol::names::Arch::X86_64);
        self.input(node, Input::Search { query: Query { arch, ..Query::default() }, wanted });
    }
}
