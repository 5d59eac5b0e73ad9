//! A shard that everybody asks for.
use super::shards::server;
use super::*;
use crate::core::shards::BUSY;
use crate::shard::{HOLDERS, Server, Shard, ShardRequest, ShardResponse, Standing, State};
use std::sync::Arc;

/// Those who serve, by the numbers of their keys.
const SERVERS: std::ops::Range<u8> = 2..30;
const PROVIDER: u8 = 40;
const REQUESTOR: u8 = 50;

fn serving(n: u8) -> Node {
    let mut node = Node::new(n);
    let servers = SERVERS.filter(|other| *other != n).map(server).collect();
    node.input(Input::Vicinity { own: Some(server(n)), servers });
    node
}

/// What a provider puts first.
fn posted() -> (Shard, Posting) {
    let mut provider = Node::new(PROVIDER);
    let servers: Vec<Arc<Server>> = SERVERS.map(server).collect();
    let mut effects = provider.input(Input::Vicinity { own: None, servers: servers.clone() });
    effects.extend(provider.input(Input::Offer(Offering::Vms(Box::new(offer(4))))));
    let tickets = effects.iter().filter_map(|effect| match effect {
        Effect::FindHolders { ticket, .. } => Some(*ticket),
        _ => None,
    });
    for ticket in tickets.collect::<Vec<u64>>() {
        effects.extend(provider.input(Input::Holders { ticket, servers: servers.clone() }));
    }
    let puts = sent(&effects).into_iter().filter_map(|(_, _, request)| match request {
        Request::Shard(ShardRequest::Put { shard, posting, .. }) => Some((shard, posting)),
        _ => None,
    });
    puts.into_iter().next().expect("it is put somewhere")
}

/// The servers' numbers, the closest to the shard first.
fn ranks(node: &Node, shard: &Shard) -> Vec<u8> {
    let place = shard.position(node.core.network());
    let mut ranks: Vec<u8> = SERVERS.collect();
    ranks.sort_by_key(|n| server(*n).at.distance(place));
    ranks
}

fn question(shard: &Shard) -> Request {
    let start = key(REQUESTOR).peer_id();
    let query = Query { isolation: IsolationWanted::Any, ..Query::default() };
    Request::Shard(ShardRequest::Ask { shard: shard.clone(), query, after: start, until: start, limit: 8 })
}

fn says(node: &mut Node, shard: &Shard) -> ShardResponse {
    match node.ask(REQUESTOR, question(shard)) {
        Response::Shard(said) => said,
        other => panic!("{other:?}"),
    }
}

fn shows(said: &ShardResponse) -> bool {
    matches!(said, ShardResponse::Shelf(shelf) if shelf.items.len() == 1 && shelf.standing == Standing::Leaf)
}

/// A holder that has the advert for long enough to know the shard, its helper, and the shard.
fn busy_holder() -> (Node, u8, u8, Shard) {
    let (shard, posting) = posted();
    let by_rank = ranks(&Node::new(PROVIDER), &shard);
    let (holder, helper) = (by_rank[0], by_rank[HOLDERS]);
    let mut node = serving(holder);
    let put = ShardRequest::Put { shard: shard.clone(), posting, also: None };
    assert!(
        matches!(node.ask(PROVIDER, Request::Shard(put)), Response::Shard(ShardResponse::Put(answer)) if answer.kept)
    );
    node.wait(Millis::secs(160));
    (node, holder, helper, shard)
}

#[test]
fn who_is_asked_too_often_is_helped_for_a_while() {
    let (mut holder, number, helping, shard) = busy_holder();
    let mut asked = Vec::new();
    for _ in 0..BUSY {
        let effects = holder.ask_all(REQUESTOR, question(&shard));
        asked.extend(sent(&effects).into_iter().filter(|(_, to, _)| *to == key(helping).peer_id()));
    }
    let [(rpc, _, relieve)] = asked.try_into().expect("one server is asked for help, once");
    let mut helper = serving(helping);
    helper.now = holder.now;
    assert!(matches!(says(&mut helper, &shard), ShardResponse::NotHolder { .. }));

    let effects = helper.ask_all(number, relieve);
    let [(read, _, snapshot)] = sent(&effects).try_into().expect("it reads the shard");
    assert!(matches!(says(&mut helper, &shard), ShardResponse::NotHolder { .. }), "it has nothing yet");
    let page = Frame::encode(helper.now, holder.ask(helping, snapshot));
    helper.input(Input::Response { rpc: read, result: Ok(page) });
    assert!(shows(&says(&mut helper, &shard)));

    assert!(shows(&says(&mut holder, &shard)), "nobody is sent to who has not said that he helps");
    let noted = Frame::encode(holder.now, Response::Shard(ShardResponse::Noted));
    holder.input(Input::Response { rpc, result: Ok(noted) });
    let answers: Vec<ShardResponse> = (0..20).map(|_| says(&mut holder, &shard)).collect();
    let is_helper = |said: &&ShardResponse| matches!(said, ShardResponse::Elsewhere(server) if server.peer == key(helping).peer_id());
    assert_eq!(answers.iter().filter(is_helper).count(), 10);
    assert_eq!(answers.iter().filter(|said| shows(said)).count(), 10);

    // It is over by itself.
    holder.wait(Millis::secs(91));
    helper.wait(Millis::secs(91));
    assert!((0..20).all(|_| shows(&says(&mut holder, &shard))));
    assert!(matches!(says(&mut helper, &shard), ShardResponse::NotHolder { .. }));
}

#[test]
fn only_a_holder_is_helped_and_only_by_who_is_behind_it() {
    let (shard, _) = posted();
    let by_rank = ranks(&Node::new(PROVIDER), &shard);
    let state = State { shard: shard.clone(), below: None, folded: false, total: None };
    let reads = |by: u8, from: u8| {
        let effects = serving(by).ask_all(from, Request::Shard(ShardRequest::Relieve(state.clone())));
        sent(&effects).len()
    };
    assert_eq!(reads(by_rank[HOLDERS], by_rank[0]), 1);
    assert_eq!(reads(by_rank[HOLDERS], by_rank[27]), 0, "no holder");
    assert_eq!(reads(by_rank[27], by_rank[0]), 0, "not behind it");
}

/// A liar's snapshot: what is forged does not come into the copy, and it ends.
#[test]
fn a_copy_takes_nothing_that_is_not_the_shards() {
    let (shard, posting) = posted();
    let by_rank = ranks(&Node::new(PROVIDER), &shard);
    let mut helper = serving(by_rank[HOLDERS]);
    let state = State { shard: shard.clone(), below: None, folded: false, total: None };
    let mut effects = helper.ask_all(by_rank[0], Request::Shard(ShardRequest::Relieve(state)));
    let Posting::Advert(mut forged) = posting else { panic!("{posting:?}") };
    forged.signature[0] ^= 1;
    let mut pages = 0;
    while let [(rpc, _, _)] = sent(&effects)[..] {
        pages += 1;
        assert!(pages < 100, "it reads for ever");
        let item = crate::board::PageItem { advert: forged.clone(), life: Millis::secs(200) };
        let page = Page { next: Some(forged.signer), items: vec![item], ..Page::default() };
        let body = Frame::encode(helper.now, Response::Board(page));
        effects = helper.input(Input::Response { rpc, result: Ok(body) });
    }
    assert!(matches!(says(&mut helper, &shard), ShardResponse::NotHolder { .. }));
}
