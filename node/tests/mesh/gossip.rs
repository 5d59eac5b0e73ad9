//! Gossip is judged before it goes on.
use super::support::*;
use node::mesh::{MeshError, MeshEvent, Verdict};

#[tokio::test]
async fn what_is_rejected_goes_no_further_and_what_is_accepted_does() {
    // A line: the ends know only the middle, so everything passes through its judgement.
    let mut middle = Node::start(config(30)).await;
    let addr = middle.addr().await;
    let end = |seed: u8| {
        let mut config = config(seed);
        (config.bootstrap, config.max_neighbours, config.listen) = (vec![addr.clone()], 1, vec![]);
        Node::start(config)
    };
    let mut sender = end(31).await;
    let mut receiver = end(32).await;
    for node in [&mut sender, &mut receiver] {
        node.subscribed_by(middle.id).await;
    }
    middle
        .until("both ends", {
            let mut missing = 2;
            move |event| {
                missing -= usize::from(matches!(event, MeshEvent::PeerSubscribed(_)));
                (missing == 0).then_some(())
            }
        })
        .await;
    let judged = [
        (b"bad 1".to_vec(), Verdict::Reject),
        (b"bad 2".to_vec(), Verdict::Reject),
        (b"bad 3".to_vec(), Verdict::Reject),
        (b"old".to_vec(), Verdict::Ignore),
        (b"good".to_vec(), Verdict::Accept),
    ];
    for (body, verdict) in judged {
        sender.mesh.publish(body.clone()).await.unwrap();
        let (id, from, got) = middle
            .until("gossip", |event| match event {
                MeshEvent::Gossip { id, from, body } => Some((id, from, body)),
                _ => None,
            })
            .await;
        assert_eq!((from, got), (sender.id, body));
        middle.mesh.judge(id, verdict).await.unwrap();
    }
    let (from, first) = receiver
        .until("gossip", |event| match event {
            MeshEvent::Gossip { from, body, .. } => Some((from, body)),
            _ => None,
        })
        .await;
    // They were judged in order, over one connection: had the others been forwarded, they would have come first.
    assert_eq!((from, first.as_slice()), (middle.id, b"good".as_slice()));
    let counted = middle.mesh.metrics();
    assert_eq!(
        (counted.gossip_in, counted.gossip_rejected, counted.gossip_ignored, counted.gossip_accepted),
        (5, 3, 1, 1)
    );
    let score = |node: &Node| {
        let (mesh, peer) = (middle.mesh.clone(), node.id);
        async move { mesh.peers().await.unwrap().into_iter().find(|info| info.peer == peer).unwrap().gossip_score }
    };
    assert!(score(&sender).await < score(&receiver).await, "a rejected message costs its sender");
}

#[tokio::test]
async fn publishing_alone_says_so() {
    let node = Node::start(config(33)).await;
    assert_eq!(node.mesh.publish(b"x".to_vec()).await, Err(MeshError::NoNeighbours));
}
