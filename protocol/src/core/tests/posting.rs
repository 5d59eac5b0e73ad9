//! The board's traffic.
use super::*;
use crate::job::{JobRow, JobState};

#[test]
fn neighbours_that_leave_while_their_board_is_read_do_not_count() {
    let mut node = Node::new(1);
    for n in 10..20 {
        node.input(Input::PeerConnected(key(n).peer_id()));
        node.input(Input::PeerDisconnected(key(n).peer_id()));
    }
    let effects = node.input(Input::PeerConnected(key(30).peer_id()));
    assert!(matches!(sent(&effects)[0].2, Request::Board { own: false, .. }));
    let again = node.input(Input::PeerConnected(key(30).peer_id()));
    assert!(sent(&again).is_empty(), "who is there already is not read twice");
}

#[test]
fn a_lost_answer_is_asked_for_again_and_a_board_that_goes_round_ends() {
    let mut node = Node::new(1);
    let effects = node.input(Input::PeerConnected(key(2).peer_id()));
    let effects = node.input(Input::Response { rpc: sent(&effects)[0].0, result: Err(RpcFailure::Timeout) });
    let mut asked = sent(&effects);
    assert_eq!(asked.len(), 1);
    let mut pages = 0;
    while let Some((rpc, ..)) = asked.first() {
        let page = Page { next: Some(key(5).peer_id()), ..Page::default() };
        let body = Frame::encode(node.now, Response::Board(page));
        asked = sent(&node.input(Input::Response { rpc: *rpc, result: Ok(body) }));
        pages += 1;
    }
    assert_eq!(pages, 2, "a page that does not go on is the last");
    assert!(node.core.is_synced());
}

#[test]
fn an_earlier_advert_of_ours_with_a_later_number_is_overtaken() {
    let mut node = Node::provider(1);
    let ours = node.core.board().get(node.now, node.core.me()).unwrap().advert.clone();
    // An earlier run's clock was ahead.
    let earlier = advert::Advert { seq: ours.seq + 50_000, issued: node.now + Millis::secs(50), ..(**ours).clone() };
    let posting = Posting::Advert(Sealed::seal(earlier.clone(), &key(1)).signed().clone());
    node.ask(2, Request::Post(posting));
    let mut newest = 0;
    for _ in 0..10 {
        node.wait(Millis::secs(1));
        newest = node.core.board().get(node.now, node.core.me()).unwrap().advert.seq;
    }
    assert!(newest > earlier.seq, "within seconds, not at the next refresh");
}

#[test]
fn a_provider_says_where_it_is_and_whoever_turns_to_it_knows() {
    let mut node = Node::provider(1);
    let addrs = |ports: std::ops::Range<u16>| {
        ports.map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()).collect::<Vec<crate::names::PeerAddr>>()
    };
    let ours = |node: &Node| node.core.board().get(node.now, node.core.me()).unwrap().advert.clone();
    assert!(ours(&node).addrs.is_empty());
    node.input(Input::Addresses(addrs(1..9)));
    node.wait(Millis::secs(5));
    let advert = ours(&node);
    assert_eq!(advert.addrs, addrs(1..5), "the first few, and at once");
    assert_eq!(published(&node.wait(Millis::secs(60))), 0, "the same address is no news");

    let mut asking = Node::new(2);
    asking.ask(1, Request::Post(Posting::Advert(advert.signed().clone())));
    let effects = asking.input(Input::Create { ticket: 1, request: Box::new(super::renting::create(1, "web")) });
    let told = |effect: &Effect| matches!(effect, Effect::Learn { peer, addrs: a } if *peer == advert.provider && *a == advert.addrs);
    let (told, sent) = (effects.iter().position(told), effects.iter().position(|e| matches!(e, Effect::Send { .. })));
    assert!(told.is_some() && told < sent);
}

#[test]
fn a_cloned_home_offers_nothing() {
    let mut node = Node::provider(1);
    node.wait(Millis::secs(600));
    let ours = node.core.board().get(node.now, node.core.me()).unwrap().advert.clone();
    let clones = advert::Advert { seq: ours.seq + 1_000_000, issued: node.now, ..(**ours).clone() };
    let posting = Posting::Advert(Sealed::seal(clones, &key(1)).signed().clone());
    let effects = node.ask_all(2, Request::Post(posting));
    let warned = |effect: &Effect| matches!(effect, Effect::Event(event) if event.severity == Severity::Critical);
    assert!(effects.iter().any(warned));
    assert_eq!((0..300).map(|_| published(&node.wait(Millis::secs(1)))).sum::<usize>(), 0);
}

#[test]
fn every_stored_row_is_read_again() {
    let mut node = Node::provider(1);
    node.lease(2, 1);
    let mut tables = vec![];
    for op in node.disk.values() {
        let value = op.value.as_ref().unwrap();
        match op.table {
            Table::Leases => {
                assert_eq!(decode::<LeaseRow>(value, MAX_STORED).unwrap().stage, LeaseStage::Active)
            }
            _ => assert_eq!(decode::<JobRow>(value, MAX_STORED).unwrap().state, JobState::Running),
        }
        tables.push(op.table);
    }
    assert_eq!(tables, [Table::Leases, Table::Jobs]);
}
