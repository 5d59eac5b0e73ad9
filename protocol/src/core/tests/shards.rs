//! The sharded board, as one node has it.
use super::*;
use crate::board::{PageItem, Posting};
use crate::shard::{Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shelf, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn server(n: u8) -> Arc<Server> {
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
    let effects = node.input(Input::Search { query, wanted: 1 });
    answered(&mut node, &servers, effects, |_, asked| {
        let ShardRequest::Ask { shard, .. } = asked else { panic!("{asked:?}") };
        // Two bits deep, a hundred adverts in each leaf, none of which fits.
        let (adverts, standing) = match (shard.index == last, shard.depth) {
            (true, 0..2) => (0, Standing::Split { below: 400 >> shard.depth }),
            (true, 2) => (100, Standing::Leaf),
            _ => (0, Standing::Absent),
        };
        // None of them shows anything, so it looks at their alternates as well.
        if standing == Standing::Leaf && shard.alternate == 0 {
            leaves.insert(shard);
        }
        ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts, standing })
    });
    assert!(!node.core.is_searching());
    assert_eq!(leaves.len(), 4, "{leaves:?}");
}

/// A guess that was too deep says nothing of what lies beside the way to it.
#[test]
fn a_search_looks_at_every_leaf_of_a_crooked_tree() {
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
    let root = Shard::root(crate::shard::indexes_for(&query)[0][0].clone());
    let leaf = |depth, prefix| Shard { depth, prefix, ..root.clone() };
    let leaves = [leaf(2, 0b00), leaf(3, 0b010), leaf(4, 0b0110), leaf(4, 0b0111), leaf(1, 1)];
    for seed in 0..60 {
        let mut node = Node::new(60 + seed);
        node.input(Input::Vicinity { own: None, servers: servers.clone() });
        let mut looked: BTreeSet<Shard> = BTreeSet::new();
        let effects = node.input(Input::Search { query: query.clone(), wanted: 1 });
        answered(&mut node, &servers, effects, |_, asked| {
            let ShardRequest::Ask { shard, .. } = asked else { panic!("{asked:?}") };
            let standing = if leaves.contains(&shard) {
                looked.insert(shard);
                Standing::Leaf
            } else if leaves.iter().any(|leaf| shard.covers(leaf)) {
                // As if it were even.
                Standing::Split { below: 600 >> shard.depth }
            } else {
                Standing::Absent
            };
            ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts: 40, standing })
        });
        assert!(!node.core.is_searching());
        assert_eq!(looked.len(), leaves.len(), "with {seed}: {looked:?}");
    }
}

/// Two steps of one search may meet at a place that this node holds itself; it asks itself twice, and answers twice.
#[test]
fn a_holder_that_searches_answers_itself_as_often_as_it_asks() {
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
    let index = crate::shard::indexes_for(&query)[0][0].clone();
    for seed in 0..60 {
        let me = 60 + seed;
        let mut node = Node::new(me);
        let others: Vec<Arc<Server>> = (2..6).map(server).collect();
        node.input(Input::Vicinity { own: Some(server(me)), servers: others.clone() });
        let servers = [others, vec![server(me)]].concat();
        // First it learns how deep the tree is, then it is less deep by two.
        for leaf in [3, 1] {
            let query = Query { want: Resources { cpus: leaf, ..query.want }, ..query.clone() };
            let effects = node.input(Input::Search { query, wanted: 1 });
            answered(&mut node, &servers, effects, |_, asked| {
                let ShardRequest::Ask { shard, .. } = asked else { panic!("{asked:?}") };
                let standing = match shard.depth.cmp(&(leaf as u8)) {
                    _ if shard.index != index => Standing::Absent,
                    std::cmp::Ordering::Less => Standing::Split { below: 40 },
                    std::cmp::Ordering::Equal => Standing::Leaf,
                    std::cmp::Ordering::Greater => Standing::Absent,
                };
                ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts: 8, standing })
            });
            assert!(!node.core.is_searching(), "with {seed} it waits for nobody");
        }
    }
}

/// Answers whatever a node asks of holders until it asks nothing more; `answer` says what each of them says.
pub(super) fn answered(
    node: &mut Node,
    servers: &[Arc<Server>],
    mut effects: Vec<Effect>,
    mut answer: impl FnMut(PeerId, ShardRequest) -> ShardResponse,
) {
    while !effects.is_empty() {
        let mut next = Vec::new();
        for effect in &effects {
            if let Effect::FindHolders { ticket, .. } = effect {
                next.extend(node.input(Input::Holders { ticket: *ticket, servers: servers.to_vec() }));
            }
        }
        for (rpc, to, asked) in sent(&effects) {
            let Request::Shard(asked) = asked else { panic!("{asked:?}") };
            let body = Frame::encode(node.now, Response::Shard(answer(to, asked)));
            next.extend(node.input(Input::Response { rpc, result: Ok(body) }));
        }
        effects = next;
    }
}

#[test]
fn who_keeps_an_advert_to_himself_is_found_out_and_others_get_it() {
    let mut node = Node::provider(1);
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    // By each shard, who was put to; the others are told nothing by any of them.
    let mut told: BTreeMap<Shard, BTreeSet<PeerId>> = BTreeMap::new();
    let mut asked: BTreeMap<Shard, Vec<PeerId>> = BTreeMap::new();
    let mut advert = None;
    let mut say = |to: PeerId, request: ShardRequest| match request {
        ShardRequest::Put { shard, posting, .. } => {
            if let Posting::Advert(signed) = &posting {
                advert = Some(signed.clone());
            }
            told.entry(shard).or_default().insert(to);
            ShardResponse::Put(PutAnswer { kept: true, go: Go::Stay, adverts: 9, total: None, closer: vec![] })
        }
        ShardRequest::Ask { shard, .. } => {
            let has = told.get(&shard).is_some_and(|told| told.contains(&to));
            asked.entry(shard).or_default().push(to);
            let item = |advert: &Signed| PageItem { advert: advert.clone(), life: Millis::secs(200) };
            let items = advert.iter().filter(|_| has).map(item).collect();
            ShardResponse::Shelf(Shelf { items, sample: None, next: None, adverts: 9, standing: Standing::Leaf })
        }
        _ => ShardResponse::Noted,
    };
    let effects = node.input(Input::Vicinity { own: None, servers: servers.clone() });
    answered(&mut node, &servers, effects, &mut say);
    for _ in 0..60 {
        let effects = node.wait(Millis::secs(10));
        answered(&mut node, &servers, effects, &mut say);
    }
    assert!(!told.is_empty());
    for (shard, told) in &told {
        assert!(told.len() > 4, "{shard:?}: only {} have it after ten minutes", told.len());
        let asked = asked.get(shard).map_or(0, Vec::len);
        assert!((4..=40).contains(&asked), "asked {asked} times");
    }
}

#[test]
fn two_who_agree_that_there_is_nothing_hide_nothing() {
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    let silent = [server(2).peer, server(3).peer];
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Vm, arch: Some(Arch::X86_64), ..Query::default() };
    // Whomever it happens to ask first.
    for seed in 0..40 {
        let mut node = Node::new(40 + seed);
        node.input(Input::Vicinity { own: None, servers: servers.clone() });
        let mut deepest = 0;
        let effects = node.input(Input::Search { query: query.clone(), wanted: 1 });
        answered(&mut node, &servers, effects, |to, request| {
            let ShardRequest::Ask { shard, .. } = request else { panic!("{request:?}") };
            deepest = deepest.max(shard.depth);
            let standing = match shard.depth {
                _ if silent.contains(&to) => Standing::Leaf,
                0..3 => Standing::Split { below: 400 },
                _ => Standing::Leaf,
            };
            ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts: 0, standing })
        });
        assert!(deepest >= 3, "it believed that there is nothing below {deepest}, with {seed}");
    }
}

#[test]
fn what_two_holders_have_not_heard_of_is_found_with_the_others() {
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    let unaware = [server(2).peer, server(3).peer];
    let advert = |n: u8, vms: u32| {
        let mut provider = Node::new(n);
        provider.input(Input::Offer(Offering::Vms(Box::new(offer(vms)))));
        let entry = provider.core.board().get(START, key(n).peer_id());
        entry.expect("its own").advert.clone()
    };
    let (wanted, other) = (advert(30, 6), advert(31, 5));
    let item = |advert: &Sealed<advert::Advert>| PageItem { advert: advert.signed().clone(), life: Millis::secs(200) };
    let memory_mib = wanted.terms.largest.memory_mib;
    let want = Resources { memory_mib, ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
    let (mut most, mut fewest) = (0, usize::MAX);
    for seed in 0..160 {
        let mut node = Node::new(60 + seed);
        node.input(Input::Vicinity { own: None, servers: servers.clone() });
        let mut asks = 0;
        let effects = node.input(Input::Search { query: query.clone(), wanted: 1 });
        answered(&mut node, &servers, effects, |to, request| {
            let ShardRequest::Ask { shard, .. } = request else { panic!("{request:?}") };
            let is_leaf = shard.depth == 0 && shard.alternate == 0 && shard.takes(&wanted) && shard.takes(&other);
            asks += usize::from(is_leaf);
            let (items, sample, adverts, standing) = match is_leaf {
                true if unaware.contains(&to) => (vec![], Some(item(&other)), 8, Standing::Leaf),
                true => (vec![item(&wanted)], Some(item(&other)), 9, Standing::Leaf),
                false => (vec![], None, 0, Standing::Absent),
            };
            ShardResponse::Shelf(Shelf { items, sample, next: None, adverts, standing })
        });
        assert!(node.core.board().get(node.now, wanted.provider).is_some(), "with {seed}");
        (most, fewest) = (most.max(asks), fewest.min(asks));
    }
    assert!(most >= 4 && fewest == 2, "some ask the two first, most ask no more than two: {fewest} to {most}");
}

/// Its time was over when somebody of the last round had not answered; the next may go on where it was.
#[test]
fn what_a_search_had_when_its_time_was_over_is_not_taken_for_all_there_is() {
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
    let search = |node: &mut Node| {
        let effects = node.input(Input::Search { query: query.clone(), wanted: 4 });
        (node.core.is_searching(), effects)
    };
    let empty =
        ShardResponse::Shelf(Shelf { items: vec![], sample: None, next: None, adverts: 0, standing: Standing::Absent });
    for silent in [true, false] {
        let mut node = Node::new(60);
        node.input(Input::Vicinity { own: None, servers: servers.clone() });
        let effects = search(&mut node).1;
        if !silent {
            answered(&mut node, &servers, effects, |_, _| empty.clone());
        }
        node.wait(Millis::secs(10));
        assert!(!node.core.is_searching());
        assert!(!search(&mut node).0, "a moment ago");
        node.wait(Millis::secs(6));
        assert_eq!(search(&mut node).0, silent, "all was seen, and that is good for a minute: {}", !silent);
    }
}

#[test]
fn a_withdrawal_empties_what_was_found_lately() {
    let mut node = Node::new(60);
    let servers: Vec<Arc<Server>> = (2..10).map(server).collect();
    node.input(Input::Vicinity { own: None, servers: servers.clone() });
    // Larger than anything that is offered, so the board here is never enough.
    let want = Resources { memory_mib: crate::units::MemoryMib(64 << 10), ..Resources::default() };
    let query = Query { want, isolation: IsolationWanted::Any, ..Query::default() };
    let mut provider = Node::provider(30);
    let said = |effects: Vec<Effect>| {
        let bodies =
            effects.into_iter().filter_map(|effect| if let Effect::Publish(body) = effect { Some(body) } else { None });
        bodies.reduce(|_, last| last)
    };
    provider.input(Input::PeerConnected(key(60).peer_id()));
    let advert = (0..10).find_map(|_| said(provider.wait(Millis::secs(1)))).expect("it offers something");
    let from = key(30).peer_id();
    node.input(Input::Gossip { id: 1, from, body: advert.to_vec() });
    assert_eq!(node.core.board().len(), 1);
    let asked = |node: &mut Node| {
        let effects = node.input(Input::Search { query: query.clone(), wanted: 4 });
        let mut asks = 0;
        answered(node, &servers, effects, |_, _| {
            asks += 1;
            ShardResponse::Shelf(Shelf {
                items: vec![],
                sample: None,
                next: None,
                adverts: 0,
                standing: Standing::Absent,
            })
        });
        asks
    };
    assert!(asked(&mut node) > 0);
    assert_eq!(asked(&mut node), 0, "it was asked a moment ago");
    let mut over = said(provider.input(Input::Drain));
    for _ in 0..10 {
        over = over.or_else(|| said(provider.wait(Millis::secs(1))));
    }
    let withdrawal = over.expect("it says that it is over");
    node.input(Input::Gossip { id: 2, from, body: withdrawal.to_vec() });
    assert_eq!(node.core.board().len(), 0);
    assert!(asked(&mut node) > 0, "somebody else may be there");
}
