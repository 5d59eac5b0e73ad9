//! A key that was stolen, and its owner's last word.
use super::*;
use crate::core::revoked::MAX_TOLD;
use crate::envelope::Payload;
use crate::revocation::Revocation;

fn revocation(n: u8) -> Posting {
    Posting::Revocation(Revocation::of(&key(n)).signed().clone())
}
fn advert_of(n: u8, after: Millis) -> Posting {
    let mut provider = Node::new(n);
    provider.now = START + after;
    provider.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
    let entry = provider.core.board().get(provider.now, key(n).peer_id());
    Posting::Advert(entry.expect("its own").advert.signed().clone())
}
fn gossip(node: &mut Node, from: u8, posting: &Posting) -> (Verdict, Vec<Effect>) {
    let input = Input::Gossip { id: 1, from: key(from).peer_id(), body: crate::codec::encode(posting) };
    let effects = node.input(input);
    let judged = effects.iter().find_map(|effect| match effect {
        Effect::Judge { verdict, .. } => Some(*verdict),
        _ => None,
    });
    (judged.expect("a verdict"), effects)
}
fn stands(node: &Node, n: u8) -> bool {
    node.core.board().get(node.now, key(n).peer_id()).is_some()
}
fn refused(node: &mut Node, from: u8, posting: Posting) -> Option<ErrorCode> {
    match node.ask(from, Request::Post(posting)) {
        Response::Refused(refusal) => Some(refusal.code()),
        Response::Posted => None,
        other => panic!("{other:?}"),
    }
}
fn warnings(effects: &[Effect], severity: Severity) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Event(event) if event.severity == severity)).count()
}

#[test]
fn it_takes_the_advert_off_keeps_later_ones_out_and_goes_on_once() {
    let mut node = Node::new(100);
    assert_eq!(refused(&mut node, 1, advert_of(1, Millis(0))), None);
    assert_eq!(refused(&mut node, 2, advert_of(2, Millis(0))), None);
    let taken_off = node.core.board().taken_off();
    let (verdict, effects) = gossip(&mut node, 5, &revocation(1));
    assert_eq!((verdict, warnings(&effects, Severity::Warning)), (Verdict::Accept, 1));
    assert!(!stands(&node, 1) && stands(&node, 2));
    assert!(node.core.board().taken_off() > taken_off, "what was found lately is looked for anew");
    assert_eq!(gossip(&mut node, 6, &revocation(1)).0, Verdict::Ignore, "it has gone on already");
    let later = advert_of(1, Millis::secs(30));
    node.wait(Millis::secs(31));
    assert_eq!(gossip(&mut node, 6, &later).0, Verdict::Ignore, "who has not heard of it is no liar");
    assert_eq!(refused(&mut node, 6, later), Some(ErrorCode::BadToken));
    // Long after everything that is forgotten by itself.
    node.wait(Millis::secs(86_400));
    let late = advert_of(1, node.now - START);
    assert_eq!(refused(&mut node, 1, late.clone()), Some(ErrorCode::BadToken));
    node.restart();
    assert_eq!(refused(&mut node, 1, late), Some(ErrorCode::BadToken), "it was on the disk");
    assert!(!stands(&node, 1));
}

#[test]
fn it_goes_on_in_a_large_mesh_too_and_to_newcomers_with_the_first_page() {
    let mut node = Node::new(100);
    let posting = revocation(1);
    let mut told = gossip(&mut node, 5, &posting).1;
    told.extend(node.ask_all(5, Request::Post(revocation(2))));
    assert_eq!(published(&told), 1, "what was handed over is passed on");
    assert_eq!(published(&node.ask_all(5, Request::Post(revocation(2)))), 0, "once");
    let page = |node: &mut Node, after, own| match node.ask(7, Request::Board { after, limit: 9, own }) {
        Response::Board(page) => page.revoked,
        other => panic!("{other:?}"),
    };
    assert_eq!(page(&mut node, Some(key(9).peer_id()), false).len(), 0);
    assert_eq!(page(&mut node, None, true).len(), 0, "who wants one advert only is told no more");
    let told = page(&mut node, None, false);
    assert_eq!(told.len(), 2);

    let mut newcomer = Node::new(101);
    let effects = newcomer.input(Input::PeerConnected(key(100).peer_id()));
    let [(rpc, ..)] = &sent(&effects)[..] else { panic!("a question") };
    // More than anybody tells, and forged ones among them.
    let mut forged = Revocation::of(&key(3)).signed().clone();
    forged.signature[5] ^= 1;
    let revoked = [vec![forged; MAX_TOLD - 2], told.clone(), vec![Revocation::of(&key(4)).signed().clone()]].concat();
    let body = Frame::encode(newcomer.now, Response::Board(Page { revoked, ..Page::default() }));
    newcomer.input(Input::Response { rpc: *rpc, result: Ok(body) });
    let known = |n| newcomer.core.revoked().contains(key(n).peer_id());
    assert_eq!([1, 2, 3, 4].map(known), [true, true, false, false]);
    assert_eq!(refused(&mut newcomer, 1, advert_of(1, Millis(0))), Some(ErrorCode::BadToken));
}

#[test]
fn only_the_key_itself_can_say_it() {
    let mut node = Node::new(100);
    node.ask(1, Request::Post(advert_of(1, Millis(0))));
    let good = Revocation::of(&key(1)).signed().clone();
    let stranger = Revocation::of(&key(9)).signed().clone();
    let withdrawal =
        advert::Withdrawal { network: "main".parse().unwrap(), provider: key(1).peer_id(), seq: 1, issued: START };
    let daily = Sealed::seal(withdrawal, &key(1)).signed().clone();
    let flipped = good.signature.iter().map(|byte| byte ^ 1).collect();
    for bad in [
        Signed { signature: flipped, ..good.clone() },
        Signed { signature: vec![], ..good.clone() },
        Signed { signer: key(1).peer_id(), ..stranger.clone() },
        Signed { signer: key(9).peer_id(), ..good.clone() },
        Signed { body: good.body.clone(), ..stranger },
        Signed { domain: Revocation::DOMAIN.into(), ..daily.clone() },
        daily,
    ] {
        let (verdict, effects) = gossip(&mut node, 5, &Posting::Revocation(bad.clone()));
        assert_eq!((verdict, published(&effects)), (Verdict::Reject, 0), "{bad:?}");
        assert!(refused(&mut node, 5, Posting::Revocation(bad)).is_some());
    }
    assert!(stands(&node, 1) && node.core.revoked().is_empty());
}

#[test]
fn nobody_rents_under_a_revoked_key_at_any_stage() {
    let request = |n| Input::Create { ticket: 1, request: Box::new(super::renting::create(n, "web")) };
    // Before: it is on no board any more, and whoever names it is told why.
    let mut node = Node::new(100);
    node.ask(1, Request::Post(advert_of(1, Millis(0))));
    gossip(&mut node, 5, &revocation(1));
    let named = CreateRequest { provider: Some(key(1).peer_id()), ..super::renting::create(1, "web") };
    assert!(sent(&node.input(Input::Create { ticket: 1, request: Box::new(named) })).is_empty());
    node.wait(Millis::secs(6));
    let why = |node: &Node| node.core.requestor().rentals().next().unwrap().fault.clone().expect("it failed");
    assert!(why(&node).message.contains("has been revoked"), "{}", why(&node));
    // While its quote is on the way.
    let mut node = Node::new(100);
    node.ask(1, Request::Post(advert_of(1, Millis(0))));
    let effects = node.input(request(1));
    let [(rpc, _, Request::Quote(_))] = &sent(&effects)[..] else { panic!("a question") };
    gossip(&mut node, 5, &revocation(1));
    let quote = super::renting::quote_of(1, 1, node.now).signed().clone();
    let body = Frame::encode(node.now, Response::Quote(quote));
    let effects = node.input(Input::Response { rpc: *rpc, result: Ok(body) });
    assert!(!sent(&effects).iter().any(|(_, _, request)| matches!(request, Request::Accept(_))));
    // While its grant is on the way: it is given back.
    let mut node = Node::new(100);
    node.ask(1, Request::Post(advert_of(1, Millis(0))));
    let asked = sent(&node.input(request(1)));
    let quote = super::renting::quote_of(1, 1, node.now).signed().clone();
    let body = Frame::encode(node.now, Response::Quote(quote));
    let effects = node.input(Input::Response { rpc: asked[0].0, result: Ok(body) });
    let [(rpc, _, Request::Accept(accept))] = &sent(&effects)[..] else { panic!("an accept") };
    gossip(&mut node, 5, &revocation(1));
    let (provider, requestor) = (key(1).peer_id(), key(100).peer_id());
    let lease_id = LeaseId::derive(provider, requestor, CreateId([1; 16]));
    let grant = Grant {
        network: "main".parse().unwrap(),
        provider,
        requestor,
        lease_id,
        accept_hash: accept.digest(),
        provisional_until: node.now + Millis::secs(30),
    };
    let body = Frame::encode(node.now, Response::Granted(Sealed::seal(grant, &key(1)).signed().clone()));
    let effects = node.input(Input::Response { rpc: *rpc, result: Ok(body) });
    let said: Vec<Request> = sent(&effects).into_iter().map(|(.., request)| request).collect();
    assert!(said.contains(&Request::Release(lease_id)), "{said:?}");
    assert!(!said.iter().any(|request| matches!(request, Request::Confirm(_))));
}

#[test]
fn a_node_whose_own_key_is_revoked_offers_nothing_any_more() {
    let mut node = Node::provider(1);
    assert!(stands(&node, 1));
    let (verdict, effects) = gossip(&mut node, 5, &revocation(1));
    assert_eq!((verdict, warnings(&effects, Severity::Critical)), (Verdict::Accept, 1));
    assert!(!stands(&node, 1));
    let mut said = published(&effects);
    said += (0..300).map(|_| published(&node.wait(Millis::secs(1)))).sum::<usize>();
    assert!(said <= 1 && !stands(&node, 1), "a withdrawal, and nothing more: {said}");
    node.restart();
    node.input(Input::Offer(Offering::Vms(Box::new(offer(1)))));
    assert!((0..300).all(|_| published(&node.wait(Millis::secs(1))) == 0) && !stands(&node, 1));
}

#[test]
fn what_its_user_says_goes_to_all_neighbours_and_to_those_that_come_soon() {
    let mut node = Node::new(100);
    let told = |effects: &[Effect]| {
        let posts = sent(effects).into_iter().filter(|(_, _, request)| *request == Request::Post(revocation(1)));
        posts.map(|(_, to, _)| to).collect::<Vec<_>>()
    };
    node.input(Input::PeerConnected(key(5).peer_id()));
    let revoke = || Input::Revoke(Box::new(Revocation::of(&key(1)).signed().clone()));
    for _ in 0..2 {
        let effects = node.input(revoke());
        assert_eq!((told(&effects), published(&effects)), (vec![key(5).peer_id()], 1));
    }
    assert_eq!(told(&node.input(Input::PeerConnected(key(6).peer_id()))), [key(6).peer_id()]);
    node.wait(Millis::secs(600));
    assert!(told(&node.input(Input::PeerConnected(key(7).peer_id()))).is_empty());
    node.restart();
    assert!(node.core.revoked().contains(key(1).peer_id()));
}

#[test]
fn a_holder_of_its_shard_takes_it_down_and_takes_no_other() {
    use crate::shard::{Index, Server, Shard, ShardRequest};
    let mut node = Node::new(100);
    let server = |n: u8| Server::new(key(n).peer_id(), vec!["/ip4/16.1.0.1/tcp/4001".parse().unwrap()]);
    node.input(Input::Vicinity { own: Some(server(100)), servers: vec![] });
    let Posting::Advert(signed) = advert_of(1, Millis(0)) else { panic!("an advert") };
    let advert = signed.clone().open::<advert::Advert>(node.core.network()).unwrap();
    let indexes = crate::shard::indexes_of(&advert);
    let shard = Shard::root(indexes.into_iter().find(|index| *index != Index::Whole).expect("a class"));
    let put = |posting| Request::Shard(ShardRequest::Put { shard: shard.clone(), posting, also: None });
    assert!(matches!(node.ask(1, put(Posting::Advert(signed))), Response::Shard(_)));
    assert_eq!(node.core.shards().adverts_held(), 1);
    assert_eq!(gossip(&mut node, 5, &revocation(1)).0, Verdict::Accept);
    assert_eq!(node.core.shards().adverts_held(), 0);
    node.wait(Millis::secs(400));
    let later = advert_of(1, node.now - START);
    let Response::Refused(refusal) = node.ask(1, put(later)) else { panic!("it is refused") };
    assert_eq!(refusal.code(), ErrorCode::BadToken);
    let Response::Refused(refusal) = node.ask(1, put(revocation(1))) else { panic!("it has no place there") };
    assert_eq!(refusal.code(), ErrorCode::InvalidRequest);
}

fn handed_over(from: u8, to: u8) -> Posting {
    Posting::Revocation(Revocation::in_favour_of(&key(to), &key(from)).signed().clone())
}

#[test]
fn who_goes_on_is_served_and_denied_as_the_key_before_it() {
    let quote = |node: &mut Node, n: u8| {
        let request = crate::message::QuoteReq { create_id: CreateId([n; 16]), spec: spec() };
        match node.ask(n, Request::Quote(request)) {
            Response::Quote(_) => None,
            Response::Refused(refusal) => Some(refusal.code()),
            other => panic!("{other:?}"),
        }
    };
    let mut node = Node::new(1);
    let policy = |allow: &[u8], deny: &[u8]| {
        let peers = |list: &[u8]| list.iter().map(|n| key(*n).peer_id()).collect();
        let policy = crate::core::provider::Policy { allow: peers(allow), deny: peers(deny) };
        Input::Offer(Offering::Vms(Box::new(crate::core::provider::Offer { policy, ..offer(9) })))
    };
    node.input(policy(&[20], &[]));
    assert_eq!((quote(&mut node, 20), quote(&mut node, 21)), (None, Some(ErrorCode::Denied)));
    assert_eq!(gossip(&mut node, 5, &handed_over(20, 21)).0, Verdict::Accept);
    assert_eq!((quote(&mut node, 21), quote(&mut node, 22)), (None, Some(ErrorCode::Denied)));
    node.input(policy(&[], &[20]));
    assert_eq!((quote(&mut node, 21), quote(&mut node, 22)), (Some(ErrorCode::Denied), None), "nobody washes it off");
    // The thief names one as well: neither is believed any more, and the key itself stays revoked.
    node.input(policy(&[20], &[]));
    assert_eq!(gossip(&mut node, 5, &handed_over(20, 22)).0, Verdict::Accept, "others have to hear of it");
    assert_eq!((quote(&mut node, 21), quote(&mut node, 22)), (Some(ErrorCode::Denied), Some(ErrorCode::Denied)));
    assert_eq!(gossip(&mut node, 5, &handed_over(20, 21)).0, Verdict::Ignore, "it goes on no more");
}

#[test]
fn whoever_names_a_provider_that_was_succeeded_is_told_the_successor() {
    let mut node = Node::new(100);
    node.ask(1, Request::Post(advert_of(1, Millis(0))));
    let (_, effects) = gossip(&mut node, 5, &handed_over(1, 2));
    let heir = key(2).peer_id().to_string();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Event(event) if event.message.contains(&heir))));
    assert_eq!(refused(&mut node, 2, advert_of(2, Millis(0))), None, "the successor's own advert is taken");
    assert_eq!(refused(&mut node, 1, advert_of(1, Millis(1))), Some(ErrorCode::BadToken));
    let named = CreateRequest { provider: Some(key(1).peer_id()), ..super::renting::create(1, "web") };
    node.input(Input::Create { ticket: 1, request: Box::new(named) });
    node.wait(Millis::secs(6));
    let fault = node.core.requestor().rentals().next().unwrap().fault.clone().expect("it failed");
    assert!(fault.hint.as_ref().is_some_and(|hint| hint.contains(&heir)), "{fault:?}");
    let (_, effects) = gossip(&mut node, 5, &handed_over(1, 3));
    let disputed = |event: &Event| event.message.contains("neither is believed");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Event(event) if disputed(event))));
}
