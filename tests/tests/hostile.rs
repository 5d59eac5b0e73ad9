//! A peer driven by hand over real connections: what is forged, stale or not its own is refused, each with its reason.
use node::mesh::{self, MeshConfig, MeshEvent, MeshHandle};
use protocol::advert::{Advert, Terms, Withdrawal};
use protocol::board::Posting;
use protocol::envelope::{Sealed, Signed};
use protocol::message::{Frame, PowerAction, Request, Response};
use protocol::names::{ActId, Arch, Egress, Isolation, LeaseId, Network};
use protocol::refusal::Refusal;
use protocol::tunnel::{TunnelOpen, TunnelReply};
use protocol::units::{Resources, Timestamp};
use protocol::{ErrorCode, Keypair, PeerId, codec};
use serde_json::Value;
use std::time::Duration;
use tests::{Home, PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Stranger {
    key: Keypair,
    mesh: MeshHandle,
    events: mpsc::Receiver<MeshEvent>,
}

impl Stranger {
    async fn join(secret: u8, addr: &str) -> Self {
        let key = Keypair::from_secret(&[secret; 32]);
        let config = MeshConfig { bootstrap: vec![addr.to_owned()], ..MeshConfig::new(key.clone(), network()) };
        let (mesh, events) = mesh::spawn(config).await.unwrap();
        Stranger { key, mesh, events }
    }
    async fn ask_raw(&mut self, to: PeerId, body: Vec<u8>) -> Response {
        let rpc = self.mesh.send(to, body).await.unwrap();
        let answered = async {
            loop {
                match self.events.recv().await {
                    Some(MeshEvent::Response { rpc: of, result }) if of == rpc => return result,
                    Some(_) => {}
                    None => panic!("the mesh has ended"),
                }
            }
        };
        let body = timeout(DEADLINE, answered).await.expect("an answer in time").expect("an answer");
        Frame::<Response>::decode(&body).unwrap().body
    }
    async fn ask(&mut self, to: PeerId, request: Request) -> Response {
        self.ask_raw(to, Frame::encode(now(), request)).await
    }
    async fn refusal(&mut self, to: PeerId, request: Request) -> Refusal {
        match self.ask(to, request.clone()).await {
            Response::Refused(refusal) => refusal,
            other => panic!("{request:?} was answered with {other:?}"),
        }
    }
}

fn network() -> Network {
    "test".parse().unwrap()
}
fn now() -> Timestamp {
    node::clock::now()
}

fn advert(key: &Keypair, seq: u64, issued: Timestamp) -> Advert {
    Advert {
        network: network(),
        provider: key.peer_id(),
        seq,
        issued,
        addrs: vec![],
        terms: Terms {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: "libvirt".parse().unwrap(),
            isolation: Isolation::Hardware,
            egress: Egress::None,
            free: Resources::LARGE,
            largest: Resources::LARGE,
            overcommit_cpu: Default::default(),
            price: protocol::money::Price { per_hour: "0".parse().unwrap(), currency: "EUR".parse().unwrap() },
            images: vec!["tiny".parse().unwrap()],
        },
    }
}
fn signed(key: &Keypair, advert: Advert) -> Signed {
    Sealed::seal(advert, key).signed().clone()
}
fn resigned(key: &Keypair, domain: &str, body: Vec<u8>) -> Signed {
    let mut bytes = domain.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend(&body);
    Signed { domain: domain.into(), signer: key.peer_id(), signature: key.sign(&bytes).to_vec(), body }
}

#[tokio::test]
async fn bad_adverts_are_refused_each_with_its_reason() {
    let home = Home::new();
    let node = home.node(&["--network", "test"]);
    let peer: PeerId = node.peer_id().parse().unwrap();
    let mut stranger = Stranger::join(7, &node.addr()).await;
    let (key, other) = (stranger.key.clone(), Keypair::from_secret(&[8; 32]));
    let t = now();
    let before = |s: u64| Timestamp(t.0 - s * 1000);
    let good = signed(&key, advert(&key, t.0, t));

    let answer = stranger.ask(peer, Request::Post(Posting::Advert(good.clone()))).await;
    assert_eq!(answer, Response::Posted);

    let mut flipped = good.clone();
    flipped.body[20] ^= 1;
    let big = vec![0; protocol::codec::MAX_ADVERT + 1];
    let claims_first = codec::encode(&advert(&key, t.0 + 9, t));
    let withdrawal = Withdrawal { network: network(), provider: key.peer_id(), seq: t.0 + 9, issued: t };
    let cases: Vec<(&str, Signed, ErrorCode, &str)> = vec![
        ("forged", flipped, ErrorCode::BadToken, "signature"),
        ("unsigned", Signed { signature: vec![], ..good.clone() }, ErrorCode::Unsigned, "unsigned"),
        ("replayed", good.clone(), ErrorCode::Expired, "sequence"),
        ("expired", signed(&key, advert(&key, t.0 + 1, before(301))), ErrorCode::Expired, "older than 300 s"),
        ("future", signed(&key, advert(&key, t.0 + 2, Timestamp(t.0 + 90_000))), ErrorCode::Expired, "future"),
        ("oversized", resigned(&key, "golemnode/advert/1", big), ErrorCode::InvalidRequest, "more than"),
        ("wrong domain", Sealed::seal(withdrawal, &key).signed().clone(), ErrorCode::BadToken, "golemnode/withdraw/1"),
        ("key substituted", resigned(&other, "golemnode/advert/1", claims_first), ErrorCode::BadToken, "another key"),
        (
            "other network",
            signed(&key, Advert { network: "other".parse().unwrap(), ..advert(&key, t.0 + 3, t) }),
            ErrorCode::BadToken,
            "network",
        ),
    ];
    for (number, (name, bad, code, reason)) in (20..).zip(cases) {
        // Each is another's: who has sent five of these is not heard any more.
        let mut another = Stranger::join(number, &node.addr()).await;
        let refusal = another.refusal(peer, Request::Post(Posting::Advert(bad))).await;
        assert_eq!(refusal.code(), code, "{name}: {refusal}");
        assert!(refusal.to_string().contains(reason), "{name}: {refusal}");
    }
    // Only the good one is there.
    let board = home.json(&["provider", "list"]);
    assert_eq!(board.as_array().map(Vec::len), Some(1), "{board}");
    // What was hostile is remembered with its sender.
    let events = home.run(&["--json", "events"]).ok().stdout();
    let forger = Keypair::from_secret(&[20; 32]).peer_id().to_string();
    assert!(events.contains(&forger) && events.contains("AUTH_001"), "{events}");
}

#[tokio::test]
async fn who_goes_on_is_banned_and_the_user_can_lift_it() {
    let home = Home::new();
    let node = home.node(&["--network", "test"]);
    let peer: PeerId = node.peer_id().parse().unwrap();
    let mut pest = Stranger::join(40, &node.addr()).await;
    let id = pest.key.peer_id().to_string();
    assert_eq!(home.json(&["ban", "list"]), serde_json::json!([]));
    for _ in 0..4 {
        pest.ask_raw(peer, vec![0xff; 100]).await;
    }
    pest.mesh.send(peer, vec![0xff; 100]).await.unwrap();
    let gone = async { while !matches!(pest.events.recv().await, Some(MeshEvent::PeerDisconnected(_))) {} };
    timeout(DEADLINE, gone).await.expect("it is cut off");

    let bans = home.json(&["ban", "list"]);
    let fields: Vec<&str> = bans[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["offences", "peer_id", "reason", "since", "until"], "{bans}");
    assert_eq!((bans[0]["peer_id"].as_str(), bans[0]["offences"].as_u64()), (Some(id.as_str()), Some(5)));
    let table = home.run(&["ban", "list"]).ok().stdout();
    assert!(table.starts_with("PEER") && table.contains(&id), "{table}");
    assert_eq!(home.json(&["ban", "lift", &id])["peer_id"], id.as_str());
    assert_eq!(home.json(&["ban", "list"]), serde_json::json!([]));
    home.run(&["ban", "lift", &id]).fails(3, "RES_001");
    pest.mesh.dial(&node.addr()).await.unwrap();
    assert!(matches!(pest.ask_raw(peer, vec![0xff]).await, Response::Refused(Refusal::Malformed(_))));
}

#[tokio::test]
async fn another_version_and_garbage_are_refused_by_name() {
    let home = Home::new();
    let node = home.node(&["--network", "test"]);
    let peer: PeerId = node.peer_id().parse().unwrap();
    let mut stranger = Stranger::join(9, &node.addr()).await;
    #[derive(serde::Serialize)]
    struct Later {
        v: u8,
        what: &'static str,
    }
    let later = stranger.ask_raw(peer, codec::encode(&Later { v: 9, what: "is this" })).await;
    assert!(matches!(later, Response::Refused(Refusal::UnknownVersion { supported: 1 })), "{later:?}");
    let garbage = stranger.ask_raw(peer, vec![0xff; 100]).await;
    assert!(matches!(garbage, Response::Refused(Refusal::Malformed(_))), "{garbage:?}");
}

/// A VM on the simulated backend will do: what is judged is whose it is.
#[tokio::test]
async fn a_second_identity_gets_nothing_of_the_firsts_vm() {
    let (provider_home, tenant) = (Home::new(), Home::new());
    provider_home.config("min_memory = \"128M\"\nmin_disk = \"1G\"\n");
    let provider = provider_home.node(&["--network", "test", "--provide", "--backend", "memory"]);
    let addr = provider.addr();
    let _tenant_node = tenant.node(&["--network", "test", "--bootstrap", &addr]);
    let vm = tenant.json(&["vm", "create", "web", "--isolation", "any"]);
    let lease: LeaseId = vm["lease"]["id"].as_str().unwrap().parse().unwrap();
    let peer: PeerId = provider.peer_id().parse().unwrap();

    let mut stranger = Stranger::join(10, &addr).await;
    for request in [
        Request::Status(lease),
        Request::Watch { lease_id: lease, seen: 0 },
        Request::Power { lease_id: lease, act: ActId([1; 16]), action: PowerAction::Stop { force: true } },
        Request::Power { lease_id: lease, act: ActId([1; 16]), action: PowerAction::Restart },
        Request::Release(lease),
    ] {
        let refusal = stranger.refusal(peer, request).await;
        assert_eq!(refusal, Refusal::NotYours(lease));
        assert_eq!(refusal.code(), ErrorCode::NotYours);
    }
    let mut stream = timeout(DEADLINE, stranger.mesh.open_stream(peer)).await.unwrap().unwrap();
    let header = codec::encode(&TunnelOpen { v: 1, lease_id: lease, port: 22, log: None });
    stream.write_u16(header.len() as u16).await.unwrap();
    stream.write_all(&header).await.unwrap();
    stream.flush().await.unwrap();
    let length = timeout(DEADLINE, stream.read_u16()).await.unwrap().unwrap();
    let mut body = vec![0; usize::from(length)];
    timeout(DEADLINE, stream.read_exact(&mut body)).await.unwrap().unwrap();
    let reply: TunnelReply = codec::decode(&body, 4096).unwrap();
    assert_eq!(reply, TunnelReply::Refused(Refusal::NotYours(lease)));

    // It still runs, its owner still has it, and the provider knows who tried.
    let info: Value = tenant.json(&["vm", "info", "web"]);
    assert_eq!(info["status"], "running");
    let events = provider_home.run(&["--json", "events"]).ok().stdout();
    let tried =
        events.lines().filter(|line| line.contains("AUTH_004") && line.contains(&stranger.key.peer_id().to_string()));
    assert_eq!(tried.count(), 6, "{events}");
    // A third identity's own list is empty.
    let other = Home::new();
    let _other_node = other.node(&["--network", "test", "--bootstrap", &addr]);
    assert_eq!(other.json(&["vm", "list"]), serde_json::json!([]));
    other.run(&["vm", "info", "web"]).fails(3, "VM_002");
}

/// Once live: in the core's tests the clock is virtual.
#[tokio::test]
async fn a_withdrawn_provider_leaves_every_board_at_once() {
    let (home, watcher) = (Home::new(), Home::new());
    home.config("min_memory = \"128M\"\nmin_disk = \"1G\"\n");
    let provider = home.node(&["--network", "test", "--provide", "--backend", "memory"]);
    let _watching = watcher.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let listed = || watcher.json(&["provider", "list", "--isolation", "any"]).as_array().map_or(0, Vec::len);
    eventually("the advert arrives", PATIENCE, || (listed() == 1).then_some(()));
    drop(provider);
    eventually("the advert is withdrawn", PATIENCE, || (listed() == 0).then_some(()));
}
