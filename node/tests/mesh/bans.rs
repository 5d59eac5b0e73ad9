//! A peer that sends what no honest node sends, over real connections, to a whole node: it is kept out, listed, and let
//! in again.
use super::support::*;
use node::config::{Home, NodeConfig, Settings};
use node::mesh::{MeshConfig, MeshEvent, MeshHandle, Refused};
use node::{Node as WholeNode, Tuning};
use protocol::board::Posting;
use protocol::envelope::Signed;
use protocol::message::{Frame, Request, Response};
use protocol::refusal::Refusal;
use protocol::{ErrorCode, Keypair, PeerId};

fn settings() -> Settings {
    let listen = vec![TCP.to_owned()];
    Settings { network: "test".parse().unwrap(), listen, mdns: false, upnp: false, ..Settings::default() }
}

async fn start(dir: &tempfile::TempDir, settings: Settings) -> WholeNode {
    let home = Home::find(Some(dir.path().to_owned())).unwrap();
    let config = NodeConfig::new(home, settings, false).unwrap();
    node::start(&config, None, Tuning::default()).await.unwrap()
}

async fn joined(seed: u8, mesh: &MeshHandle) -> Node {
    let bootstrap = mesh.listen_addrs().await.unwrap();
    let mut peer = Node::start(MeshConfig { bootstrap, ..config(seed) }).await;
    peer.connected_to(mesh.local_peer()).await;
    peer
}

/// An advert with a signature that nobody has made.
fn forged(seed: u8) -> Vec<u8> {
    let signer = Keypair::from_secret(&[seed; 32]).peer_id();
    let body = vec![seed; 50];
    let advert = Signed { domain: "golemnode/advert/1".into(), signer, signature: vec![7; 64], body };
    Frame::encode(node::clock::now(), Request::Post(Posting::Advert(advert)))
}

async fn refusal(peer: &mut Node, to: PeerId, body: Vec<u8>) -> Refusal {
    let rpc = peer.mesh.send(to, body).await.unwrap();
    let answer = peer.answer_to(rpc).await.unwrap();
    match Frame::<Response>::decode(&answer).unwrap().body {
        Response::Refused(refusal) => refusal,
        other => panic!("it was answered: {other:?}"),
    }
}

async fn is_refused(peer: &mut Node, whole: &WholeNode) {
    let before = whole.mesh.metrics().refused(Refused::Banned);
    let addr = whole.mesh.listen_addrs().await.unwrap().remove(0);
    // Who is refused finds out when the connection ends; that it was made is what the dial says.
    let _ = peer.mesh.dial(&addr).await;
    let told = async {
        while whole.mesh.metrics().refused(Refused::Banned) == before {
            tokio::task::yield_now().await;
        }
    };
    soon("a refusal", told).await;
    assert!(whole.mesh.peers().await.unwrap().iter().all(|known| known.peer != peer.id));
}

#[tokio::test]
async fn a_forger_is_kept_out_listed_and_let_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let whole = start(&dir, settings()).await;
    let to = whole.mesh.local_peer();
    let mut honest = joined(211, &whole.mesh).await;
    let mut forger = joined(212, &whole.mesh).await;
    for n in 1..node::bans::OFFENCES as u8 {
        let bad = if n % 2 == 0 { vec![0xff; 100] } else { forged(n) };
        let refused = refusal(&mut forger, to, bad).await;
        assert!(matches!(refused, Refusal::BadSignature(_) | Refusal::Malformed(_)), "{refused:?}");
    }
    assert_eq!(whole.handle.bans().await.unwrap(), [], "it has one more");
    forger.mesh.send(to, forged(9)).await.unwrap();
    let gone = |event| matches!(event, MeshEvent::PeerDisconnected(peer) if peer == to).then_some(());
    forger.until("the end of its connection", gone).await;

    let bans = whole.handle.bans().await.unwrap();
    assert_eq!((bans.len(), bans[0].peer_id, bans[0].offences), (1, forger.id, 5));
    assert!(bans[0].reason.contains("AUTH_001") && bans[0].until > bans[0].since, "{bans:?}");
    is_refused(&mut forger, &whole).await;
    // Who stood beside it is still there.
    let malformed = refusal(&mut honest, to, vec![0xff]).await;
    assert!(matches!(malformed, Refusal::Malformed(_)), "{malformed:?}");

    whole.stop().await.unwrap();
    let whole = restarted(&dir).await;
    assert_eq!(whole.handle.bans().await.unwrap(), bans, "a restart forgives nothing");
    is_refused(&mut forger, &whole).await;

    assert_eq!(whole.handle.lift_ban(forger.id).await.unwrap(), bans[0]);
    assert_eq!(whole.handle.bans().await.unwrap(), []);
    let addr = whole.mesh.listen_addrs().await.unwrap().remove(0);
    let dialled = soon("the dial", forger.mesh.dial(&addr)).await;
    assert_eq!(dialled, Ok(to));
    forger.connected_to(to).await;
    let none = whole.handle.lift_ban(forger.id).await.unwrap_err();
    assert_eq!((none.code, none.code.exit_code()), (ErrorCode::NoSuchResource, 3));

    let events = whole.handle.events(0, 1000).await.unwrap();
    let of = |severity: &str, word: &str| {
        let subject = Some(forger.id.to_string());
        let fits = |event: &&node::api::types::EventView| {
            event.kind == "security" && event.severity == severity && event.message.contains(word)
        };
        events.iter().filter(fits).filter(|event| event.subject == subject).count()
    };
    assert_eq!((of("warning", "banned for 1h, until"), of("info", "ban is lifted")), (1, 1), "{events:?}");
    whole.stop().await.unwrap();
}

/// The old one may hold the database's lock for a moment after it has stopped.
async fn restarted(dir: &tempfile::TempDir) -> WholeNode {
    let again = async {
        loop {
            let home = Home::find(Some(dir.path().to_owned())).unwrap();
            let config = NodeConfig::new(home, settings(), false).unwrap();
            match node::start(&config, None, Tuning::default()).await {
                Ok(node) => return node,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    soon("a second run", again).await
}

#[tokio::test]
async fn whom_the_settings_name_is_not_banned() {
    let dir = tempfile::tempdir().unwrap();
    let mut trusting = settings();
    let trusted = Keypair::from_secret(&[213; 32]).peer_id();
    trusting.provider.allow = vec![trusted];
    let whole = start(&dir, trusting).await;
    let mut friend = joined(213, &whole.mesh).await;
    for _ in 0..2 * node::bans::OFFENCES {
        let refused = refusal(&mut friend, whole.mesh.local_peer(), vec![0xff; 100]).await;
        assert!(matches!(refused, Refusal::Malformed(_)), "{refused:?}");
    }
    assert_eq!(whole.handle.bans().await.unwrap(), []);
    whole.stop().await.unwrap();
}

#[tokio::test]
async fn a_leased_peer_stays_until_its_lease_ends() {
    let (keeper, mut tenant) = pair(214, TCP).await;
    keeper.mesh.pin(tenant.id).await.unwrap();
    keeper.mesh.ban(tenant.id).await.unwrap();
    let rpc = tenant.mesh.send(keeper.id, vec![1]).await.unwrap();
    let id = keeper.id;
    let keeper = keeper.serve();
    assert_eq!(tenant.answer_to(rpc).await, Ok(vec![1]));
    assert!(keeper.peers().await.unwrap().iter().any(|known| known.peer == tenant.id));
    keeper.unpin(tenant.id).await.unwrap();
    let gone = |event| matches!(event, MeshEvent::PeerDisconnected(peer) if peer == id).then_some(());
    tenant.until("the end of its connection", gone).await;
}
