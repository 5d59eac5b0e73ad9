//! Where a search begins, as neighbours say and as this node has seen.
use super::shards::{answered, server};
use super::*;
use crate::advert::ADVERT_TTL;
use crate::board::PageItem;
use crate::shard::{Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shelf, Standing, indexes_of};
use std::sync::Arc;

/// A neighbour comes, is asked for its board, and says how deep it has found the trees.
fn told(node: &mut Node, from: u8, depths: &[(Index, u8)]) -> Vec<Effect> {
    let mut effects = node.input(Input::PeerConnected(key(from).peer_id()));
    let board = sent(&effects).into_iter().find(|(_, _, asked)| matches!(asked, Request::Board { own: false, .. }));
    let (rpc, ..) = board.expect("it is asked for its board");
    let page = Page { total: Some(4000), depths: depths.to_vec(), ..Page::default() };
    let body = Frame::encode(node.now, Response::Board(page));
    effects.extend(node.input(Input::Response { rpc, result: Ok(body) }));
    effects
}

fn servers() -> Vec<Arc<Server>> {
    (2..10).map(server).collect()
}
fn index() -> Index {
    let provider = Node::provider(1);
    indexes_of(&provider.core.board().get(provider.now, key(1).peer_id()).expect("its own").advert).remove(0)
}
fn shelf(standing: Standing) -> ShardResponse {
    ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts: 9, standing })
}

#[test]
fn a_search_begins_where_neighbours_have_found_the_leaves_and_looks_up_what_is_beside_meanwhile() {
    let Index::All(class) = index() else { panic!("every advert stands among all") };
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(class.arch), ..Query::default() };
    let tree = crate::shard::indexes_for(&query)[0][0].clone();
    let mut node = Node::new(60);
    node.input(Input::Vicinity { own: None, servers: servers() });
    for (n, depth) in [(20, 7), (21, 24), (22, 6)] {
        told(&mut node, n, &[(tree.clone(), depth)]);
    }
    let effects = node.input(Input::Search { query, wanted: 1 });
    let keys: Vec<Vec<u8>> = effects
        .iter()
        .filter_map(|it| if let Effect::FindHolders { key, .. } = it { Some(key.clone()) } else { None })
        .collect();
    let is_at = |depth: u8| {
        let network = node.core.network();
        (0..1u32 << depth)
            .any(|prefix| keys.contains(&Shard { depth, prefix, ..Shard::root(tree.clone()) }.key(network)))
    };
    // The least that was told, and a step to either side: not the root, and not where a liar says.
    assert_eq!((0..10).filter(|depth| is_at(*depth)).collect::<Vec<u8>>(), [5, 6, 7]);
    let mut asked = Vec::new();
    answered(&mut node, &servers(), effects, |_, request| {
        let ShardRequest::Ask { shard, .. } = request else { panic!("{request:?}") };
        let standing = match shard.depth.cmp(&7) {
            _ if shard.index != tree => Standing::Absent,
            std::cmp::Ordering::Less => Standing::Split { below: 90 },
            std::cmp::Ordering::Equal => Standing::Leaf,
            std::cmp::Ordering::Greater => Standing::Absent,
        };
        if shard.index == tree {
            asked.push(shard.depth);
        }
        shelf(standing)
    });
    assert!(asked.iter().all(|depth| *depth >= 6) && asked.contains(&7), "{asked:?}");
}

#[test]
fn a_search_looks_where_there_is_something_as_neighbours_say_and_then_only_elsewhere() {
    let query = Query { isolation: IsolationWanted::Any, ..Query::default() };
    let tiers = crate::shard::indexes_for(&query);
    let known = tiers[1][0].clone();
    let mut both = [0, 0];
    for seed in 60..100 {
        let mut node = Node::new(seed);
        node.input(Input::Vicinity { own: None, servers: servers() });
        told(&mut node, 20, &[(known.clone(), 0)]);
        let effects = node.input(Input::Search { query: query.clone(), wanted: 1 });
        let mut asked = Vec::new();
        answered(&mut node, &servers(), effects, |_, request| {
            let ShardRequest::Ask { shard, .. } = request else { panic!("{request:?}") };
            asked.push(shard.index.clone());
            ShardResponse::Shelf(Shelf::absent())
        });
        let others = asked.iter().position(|index| *index != known).expect("there is nothing, so it looks at all");
        // Two holders of each are asked at first, a third when they have nothing.
        assert!(others >= 2, "{asked:?}");
        both[usize::from(others > 2)] += 1;
        assert!(tiers.concat().iter().all(|index| asked.contains(index)), "{asked:?}");
    }
    // One in four looks at a second tree at once.
    assert!(both[0] > 3 && both[1] > 20, "{both:?}");
}

#[test]
fn a_provider_says_how_deep_it_was_sent_to_who_comes_for_the_whole_board() {
    let (mut node, tree) = (Node::provider(1), index());
    let effects = node.input(Input::Vicinity { own: None, servers: servers() });
    answered(&mut node, &servers(), effects, |_, request| {
        let ShardRequest::Put { shard, .. } = request else { return shelf(Standing::Leaf) };
        let go = if shard.depth < 6 { Go::Down { below: 64 << (6 - shard.depth) } } else { Go::Stay };
        ShardResponse::Put(PutAnswer { kept: true, go, adverts: 50, total: Some(4000), closer: vec![] })
    });
    for (own, told) in [(false, vec![(tree, 6)]), (true, vec![])] {
        let Response::Board(page) = node.ask(30, Request::Board { after: None, limit: 10, own }) else {
            panic!("no page")
        };
        assert_eq!(page.depths, told);
    }
}

/// Of a mesh whose leaves lie at 6; where adverts were put.
fn put_to(node: &mut Node, effects: Vec<Effect>) -> Vec<u8> {
    let mut depths = Vec::new();
    let own = node.core.board().get(node.now, key(1).peer_id()).map(|entry| entry.advert.signed().clone());
    answered(node, &servers(), effects, |_, request| match request {
        ShardRequest::Put { shard, posting: Posting::Advert(_), .. } => {
            depths.push(shard.depth);
            let go = if shard.depth < 6 { Go::Down { below: 64 << (6 - shard.depth) } } else { Go::Stay };
            ShardResponse::Put(PutAnswer { kept: true, go, adverts: 50, total: Some(4000), closer: vec![] })
        }
        ShardRequest::Put { .. } => ShardResponse::Noted,
        // It asks whether they show what they took.
        _ => {
            let items = own.iter().map(|advert| PageItem { advert: advert.clone(), life: ADVERT_TTL }).collect();
            ShardResponse::Shelf(Shelf { items, sample: None, next: None, adverts: 50, standing: Standing::Leaf })
        }
    });
    depths
}

#[test]
fn an_offer_that_comes_back_goes_where_it_stood_if_it_stood_long() {
    for (stood, first) in [(Millis(ADVERT_TTL.0 + 10_000), 6), (Millis::secs(60), 0)] {
        let mut node = Node::provider(1);
        let effects = node.input(Input::Vicinity { own: None, servers: servers() });
        assert_eq!(put_to(&mut node, effects)[0], 0, "nobody has told it anything");
        let end = node.now + stood;
        while node.now < end {
            let effects = node.wait(Millis::secs(10));
            put_to(&mut node, effects);
        }
        let effects = node.input(Input::Offer(Offering::Nothing { reason: "full".into() }));
        assert!(put_to(&mut node, effects).is_empty(), "only withdrawals");
        let mut effects = node.wait(Millis::secs(10));
        effects.extend(node.input(Input::Offer(Offering::Vms(Box::new(offer(1))))));
        effects.extend(node.wait(Millis::secs(10)));
        let put = put_to(&mut node, effects);
        assert_eq!(put[0], first, "after {stood:?}: {put:?}");
    }
}

#[test]
fn what_was_only_told_is_not_told_on() {
    let mut node = Node::new(60);
    told(&mut node, 20, &[(index(), 9)]);
    let board = Request::Board { after: None, limit: 10, own: false };
    let Response::Board(page) = node.ask(30, board) else { panic!("no page") };
    assert_eq!(page.depths, []);
}
