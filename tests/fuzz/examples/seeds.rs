//! Writes what each target begins with, made from real messages: `cargo run --example seeds`. The files are committed;
//! names that begin with `seed-` are this program's, the others were found by fuzzing (`tests/tools/fuzz.sh keep`).
use fuzz::world::{self, key, network};
use fuzz::{CHAIN, KINDS, Record};
use protocol::advert::{Advert, Withdrawal};
use protocol::board::{Page, PageItem, Posting};
use protocol::codec::encode;
use protocol::envelope::{Payload, Sealed};
use protocol::lease::{Accept, Active, Confirm, Grant, LeaseDocument, Quote};
use protocol::message::{
    ConfirmReq, Frame, LeaseStage, LeaseStatus, PowerAction, ProvisionStep, QuoteReq, Request, Response, VmPhase,
};
use protocol::names::{ActId, CreateId, Digest, Egress, Isolation, IsolationWanted, LeaseId, QuoteId};
use protocol::refusal::Refusal;
use protocol::revocation::Revocation;
use protocol::spec::VmSpec;
use protocol::tunnel::{TunnelOpen, TunnelReply};
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{ErrorCode, Fault};
use std::path::Path;

#[path = "seeds/local.rs"]
mod local;
#[path = "seeds/plays.rs"]
mod plays;
#[path = "seeds/shards.rs"]
mod shards;

pub type Seeds = Vec<Vec<u8>>;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, _) in fuzz::TARGETS {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir).expect("own folder");
        for entry in std::fs::read_dir(&dir).expect("own folder").flatten() {
            if entry.file_name().to_string_lossy().starts_with("seed-") {
                std::fs::remove_file(entry.path()).expect("own file");
            }
        }
        let seeds = of(target);
        assert!(!seeds.is_empty(), "{target} begins with nothing");
        for (number, seed) in seeds.iter().enumerate() {
            assert!(seed.len() < 4096, "{target} {number} has {} bytes", seed.len());
            std::fs::write(dir.join(format!("seed-{number:02}")), seed).expect("own folder");
        }
    }
}

fn of(target: &str) -> Seeds {
    match target {
        "frame_request" => requests().into_iter().map(|body| Frame::encode(world::START, body)).collect(),
        "frame_response" => responses().into_iter().map(|body| Frame::encode(world::START, body)).collect(),
        "posting" => postings().iter().map(encode).collect(),
        "envelope" => envelopes(),
        "tunnel" => tunnels(),
        "lease_document" => documents(),
        "stored" => plays::stored(),
        "board" => plays::board(),
        "core" => plays::core(),
        other => local::of(other),
    }
}

fn spec() -> VmSpec {
    VmSpec {
        resources: Resources::SMALL,
        image: "tiny".parse().expect("an image"),
        isolation: IsolationWanted::Vm,
        arch: None,
        backend: Some("memory".parse().expect("a backend")),
        ports: vec![80, 443],
        duration: Millis::secs(3600),
        or_less: false,
    }
}

/// One whole negotiation between the keys 1 (provider) and 2.
pub struct Deal {
    pub quote: Sealed<Quote>,
    pub accept: Sealed<Accept>,
    pub grant: Sealed<Grant>,
    pub confirm: Sealed<Confirm>,
    pub active: Sealed<Active>,
}

pub fn deal() -> Deal {
    let (p, r) = (key(1), key(2));
    let (network, provider, requestor) = (network(), p.peer_id(), r.peer_id());
    let now = world::START;
    let create_id = CreateId([3; 16]);
    let quote = Sealed::seal(
        Quote {
            network: network.clone(),
            provider,
            requestor,
            quote_id: QuoteId([4; 16]),
            boot_id: 5,
            spec: spec(),
            image_digest: Digest([6; 32]),
            guest_user: "debian".parse().expect("a user"),
            backend: "memory".parse().expect("a backend"),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            price: world::terms().price,
            issued: now,
            hold_until: now + Millis::secs(30),
            contested: false,
        },
        &p,
    );
    let seed_hash = Digest::of(&world::tenants_seed());
    let (nonce, expires) = (7, now + Millis::secs(30));
    let quote_hash = quote.digest();
    let accept =
        Accept { network: network.clone(), provider, requestor, quote_hash, create_id, seed_hash, nonce, expires };
    let accept = Sealed::seal(accept, &r);
    let (lease_id, accept_hash) = (LeaseId::derive(provider, requestor, create_id), accept.digest());
    let grant =
        Grant { network: network.clone(), provider, requestor, lease_id, accept_hash, provisional_until: expires };
    let grant = Sealed::seal(grant, &p);
    let grant_hash = grant.digest();
    let confirm =
        Sealed::seal(Confirm { network: network.clone(), provider, requestor, lease_id, grant_hash, expires }, &r);
    let (started_at, ends_at) = (now, now + spec().duration);
    let active = Active { network, provider, requestor, lease_id, grant_hash, started_at, ends_at };
    Deal { quote, accept, grant, confirm, active: Sealed::seal(active, &p) }
}

pub fn postings() -> Vec<Posting> {
    let by = key(3);
    let plain = Advert { terms: protocol::advert::Terms { name: None, ..world::terms() }, ..world::advert(&by) };
    let withdrawal = Withdrawal { network: network(), provider: by.peer_id(), seq: 2, issued: world::START };
    let mut unsigned = Sealed::seal(world::advert(&by), &by).signed().clone();
    unsigned.signature.clear();
    vec![
        Posting::Advert(Sealed::seal(world::advert(&by), &by).signed().clone()),
        Posting::Advert(Sealed::seal(plain, &by).signed().clone()),
        Posting::Withdrawal(Sealed::seal(withdrawal, &by).signed().clone()),
        Posting::Revocation(Revocation::of(&by).signed().clone()),
        Posting::Revocation(Revocation::in_favour_of(&key(4), &by).signed().clone()),
        Posting::Advert(unsigned),
        Posting::Advert(deal().quote.signed().clone()),
    ]
}

fn requests() -> Vec<Request> {
    let Deal { accept, confirm, grant, .. } = deal();
    let lease_id = grant.lease_id;
    let mut all = vec![
        Request::Board { after: None, limit: 128, own: false },
        Request::Board { after: Some(key(1).peer_id()), limit: 0, own: true },
        Request::Quote(QuoteReq { create_id: CreateId([3; 16]), spec: spec() }),
        Request::Decline(QuoteId([4; 16])),
        Request::Accept(accept.signed().clone()),
        Request::Confirm(ConfirmReq { confirm: confirm.signed().clone(), seed: world::tenants_seed() }),
        Request::Release(lease_id),
        Request::Status(lease_id),
        Request::Watch { lease_id, seen: 3 },
        Request::Power { lease_id, act: ActId([5; 16]), action: PowerAction::Stop { force: true } },
        Request::Power { lease_id, act: ActId([5; 16]), action: PowerAction::Start },
        Request::RenewQuote { lease_id, duration: Millis::secs(7200) },
        Request::Renew { quote: accept.signed().clone(), renew: confirm.signed().clone() },
        Request::Countersign(confirm.signed().clone()),
        Request::Away,
    ];
    all.extend(postings().into_iter().map(Request::Post));
    all.extend(shards::requests().into_iter().map(Request::Shard));
    all
}

fn status(vm: VmPhase, fault: Option<Fault>) -> LeaseStatus {
    let deal = deal();
    LeaseStatus {
        lease_id: deal.grant.lease_id,
        stage: LeaseStage::Active,
        revision: 9,
        vm,
        fault,
        guest_user: "root".parse().expect("a user"),
        active: Some(deal.active.signed().clone()),
        receipt: Some(deal.grant.signed().clone()),
        credit_ends: Some(world::START),
        resources: Some(Resources::SMALL),
    }
}

fn responses() -> Vec<Response> {
    let Deal { quote, grant, active, .. } = deal();
    let item = |posting: Posting| match posting {
        Posting::Advert(advert) => Some(PageItem { advert, life: Millis::secs(250) }),
        Posting::Withdrawal(_) | Posting::Revocation(_) => None,
    };
    let page = Page {
        items: postings().into_iter().filter_map(item).collect(),
        next: Some(key(3).peer_id()),
        total: Some(70),
        revoked: vec![Revocation::of(&key(5)).signed().clone()],
        depths: shards::depths(),
    };
    let loud = Fault::new(ErrorCode::CreateFailed, "\u{1b}[2J it died").details("line\nline").hint("\u{202e}");
    let mut all = vec![
        Response::Board(Page::default()),
        Response::Board(page),
        Response::Posted,
        Response::Declined,
        Response::Countersigned,
        Response::RenewQuote(grant.signed().clone()),
        Response::Quote(quote.signed().clone()),
        Response::Granted(grant.signed().clone()),
        Response::Active { active: active.signed().clone(), status: status(VmPhase::Running, None) },
        Response::Status(status(VmPhase::Provisioning(ProvisionStep::Disk), None)),
        Response::Status(status(VmPhase::Failed, Some(loud.clone()))),
    ];
    all.extend(refusals(loud).into_iter().map(Response::Refused));
    all.extend(shards::responses().into_iter().map(Response::Shard));
    all
}

fn refusals(loud: Fault) -> Vec<Refusal> {
    let lease = deal().grant.lease_id;
    vec![
        Refusal::UnknownVersion { supported: 1 },
        Refusal::Malformed("it has \u{9b}2J no end".into()),
        Refusal::NoSuchImage("debian:12".parse().expect("an image")),
        Refusal::Exhausted { asked: Resources::LARGE, free: Resources::SMALL, retry_after_s: Some(9) },
        Refusal::TooManyRequests { retry_after_s: 60 },
        Refusal::LeaseTooLong { longest: Millis::secs(86_400) },
        Refusal::NotYours(lease),
        Refusal::WrongState { is: "running".into(), wanted: "stopped".into() },
        Refusal::NoSuchPort(22),
        Refusal::Backend(loud),
    ]
}

fn envelopes() -> Seeds {
    let Deal { quote, accept, grant, confirm, active } = deal();
    let withdrawal = Withdrawal { network: network(), provider: key(1).peer_id(), seq: 2, issued: world::START };
    let bodies: [Vec<u8>; KINDS as usize] = [
        encode(&world::advert(&key(1))),
        encode(&withdrawal),
        quote.signed().body.clone(),
        accept.signed().body.clone(),
        grant.signed().body.clone(),
        confirm.signed().body.clone(),
        active.signed().body.clone(),
        Revocation::of(&key(1)).signed().body.clone(),
    ];
    // Signed here by the key that the message names: the provider's, or the requestor's.
    let by = [1, 1, 1, 2, 1, 2, 1, 1];
    let mut all: Seeds = (0..KINDS)
        .map(|kind| Record::default().u8(kind).u8(by[usize::from(kind)] << 1).bytes(&bodies[usize::from(kind)]).0)
        .collect();
    let handed_over = Revocation::in_favour_of(&key(2), &key(1));
    all.push(Record::default().u8(7).u8(1 << 1).bytes(&handed_over.signed().body).0);
    let signed = [(2, quote.signed()), (3, accept.signed()), (6, active.signed()), (7, handed_over.signed())];
    for (kind, signed) in signed {
        all.push(Record::default().u8(kind).u8(1).bytes(&encode(signed)).0);
    }
    all
}

fn tunnels() -> Seeds {
    let header = |body: Vec<u8>| Record::default().chunk(&body).0;
    let lease_id = deal().grant.lease_id;
    let mut all = vec![
        header(encode(&TunnelOpen { v: 1, lease_id, port: 22, log: None })),
        header(encode(&TunnelReply::Open)),
        vec![0xff, 0xff, 0],
    ];
    let loud = Fault::new(ErrorCode::PortBlocked, "\u{1b}]0;title\u{7}");
    all.extend(refusals(loud).into_iter().map(|refusal| header(encode(&TunnelReply::Refused(refusal)))));
    all
}

fn documents() -> Seeds {
    let Deal { quote, accept, grant, confirm, active } = deal();
    let whole = LeaseDocument {
        version: 1,
        network: network(),
        quote: quote.signed().into(),
        accept: accept.signed().into(),
        grant: grant.signed().into(),
        confirm: Some(confirm.signed().into()),
        active: Some(active.signed().into()),
        renewal: None,
    };
    let provisional = LeaseDocument { confirm: None, active: None, ..whole.clone() };
    let other = LeaseDocument { network: "other".parse().expect("a network"), ..provisional.clone() };
    let json = |document: &LeaseDocument| serde_json::to_vec(document).expect("plain data");
    let chain = |links: u8, parts: usize| {
        let bodies = [body(&quote), body(&accept), body(&grant), body(&confirm), body(&active)];
        let begun = Record::default().u8(CHAIN).u8(links);
        bodies[..parts].iter().fold(begun, |record, body| record.chunk(body)).0
    };
    vec![
        json(&provisional),
        json(&other),
        chain(0xff, 5),
        chain(0xff, 3),
        chain(0xff, 4),
        chain(0b0_1111, 5),
        chain(0b1_0111, 5),
        chain(0b1_1101, 5),
        chain(0b1_1110, 5),
    ]
}

fn body<T: Payload>(sealed: &Sealed<T>) -> &[u8] {
    &sealed.signed().body
}

pub fn at(seconds: u64) -> Timestamp {
    world::START + Millis::secs(seconds)
}
