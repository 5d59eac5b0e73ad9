//! A real one of everything that goes over the wire, from fixed keys: the same bytes each time.
use protocol::advert::{Advert, Terms, Withdrawal};
use protocol::board::{Page, PageItem, Posting};
use protocol::codec::encode;
use protocol::envelope::Sealed;
use protocol::lease::{ACCEPT_LIFE, Accept, Active, Confirm, Grant, LeaseDocument, QUOTE_HOLD, Quote, SignedText};
use protocol::message::{ConfirmReq, Frame, QuoteReq, Request, Response, VERSION};
use protocol::message::{LeaseStage, LeaseStatus, PowerAction, ProvisionStep, VmPhase};
use protocol::money::{Price, Sum};
use protocol::names::{ActId, Arch, CreateId, Digest, Egress, Isolation, IsolationWanted, LeaseId, Network, QuoteId};
use protocol::quota::{self, Usage};
use protocol::receipt::{Countersign, Line, Receipt, ReceiptDocument};
use protocol::refusal::Refusal;
use protocol::renewal::{Renew, RenewQuote, Renewal, Renewed};
use protocol::revocation::{Revocation, RevocationDocument};
use protocol::seed::Seed;
use protocol::shard::{
    Block, Child, Class, Go, Index, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Shared, Shelf, Standing,
    State, Tier,
};
use protocol::spec::{Query, VmSpec};
use protocol::tunnel::{TunnelOpen, TunnelReply};
use protocol::units::{Millis, Overcommit, Resources, Timestamp};
use protocol::{ErrorCode, Fault, Keypair, PeerId};

pub const NOW: Timestamp = Timestamp(1_700_000_000_000);
pub const CREATE: CreateId = CreateId([0xc1; 16]);

pub fn key(n: u8) -> Keypair {
    Keypair::from_secret(&[n; 32])
}
pub fn provider() -> PeerId {
    key(1).peer_id()
}
pub fn requestor() -> PeerId {
    key(2).peer_id()
}
pub fn network() -> Network {
    "main".parse().unwrap()
}
pub fn price() -> Price {
    Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() }
}

pub fn advert() -> Advert {
    let terms = Terms {
        name: Some("rack-1".parse().unwrap()),
        country: Some("DE".parse().unwrap()),
        arch: Arch::X86_64,
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Hardware,
        egress: Egress::Internet,
        free: Resources::new(3, 6144, 100),
        largest: Resources::new(8, 16384, 200),
        overcommit_cpu: Overcommit(200),
        price: price(),
        images: vec!["debian:12".parse().unwrap()],
    };
    let addrs = vec!["/ip4/192.0.2.7/tcp/4001".parse().unwrap()];
    Advert { network: network(), provider: provider(), seq: NOW.0, issued: NOW, addrs, terms }
}
pub fn spec() -> VmSpec {
    VmSpec {
        resources: Resources::SMALL,
        image: "debian:12".parse().unwrap(),
        isolation: IsolationWanted::Vm,
        arch: Some(Arch::X86_64),
        backend: None,
        ports: vec![80],
        duration: Millis::secs(3600),
        or_less: true,
    }
}
pub fn quote() -> Sealed<Quote> {
    let quote = Quote {
        network: network(),
        provider: provider(),
        requestor: requestor(),
        quote_id: QuoteId([0xa1; 16]),
        boot_id: 7,
        spec: spec(),
        image_digest: Digest::of(b"image"),
        guest_user: "debian".parse().unwrap(),
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Hardware,
        egress: Egress::Internet,
        price: price(),
        issued: NOW,
        hold_until: NOW + QUOTE_HOLD,
        contested: false,
    };
    Sealed::seal(quote, &key(1))
}
pub fn seed() -> Seed {
    Seed {
        hostname: "web".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA".into()],
        host_key: "-----BEGIN OPENSSH PRIVATE KEY-----".into(),
        user_data: None,
    }
}
/// The fields that all messages between two have.
macro_rules! between {
    ($name:ident by $key:literal { $($rest:tt)* }) => {
        Sealed::seal($name { network: network(), provider: provider(), requestor: requestor(), $($rest)* }, &key($key))
    };
}
pub fn accept() -> Sealed<Accept> {
    let (quote_hash, seed_hash) = (quote().digest(), Digest::of(&seed().encode()));
    between!(Accept by 2 { quote_hash, create_id: CREATE, seed_hash, nonce: 9, expires: NOW + ACCEPT_LIFE })
}
pub fn receipt() -> Sealed<Receipt> {
    let lines: Vec<Line> = [3600, 1].map(|seconds| Line { price: price(), seconds }).into();
    let total = lines.iter().fold(Sum::ZERO, |all, line| all.plus(line.cost()));
    let (lease_id, grant_hash) = (lease_id(), Digest::of(b"grant"));
    between!(Receipt by 1 { lease_id, grant_hash, number: 1, issued: NOW, lines, total, last: true })
}
pub fn lease_id() -> LeaseId {
    LeaseId::derive(provider(), requestor(), CREATE)
}
pub fn class() -> Class {
    Class::of(&advert())
}
pub fn deep() -> Shard {
    let index = Index::Country(class(), "DE".parse().unwrap());
    Shard { alternate: 1, ..Shard::of(index, 9, provider()) }
}

/// A real one of each, every optional field filled in: as they go over the wire, and the bodies of what is signed.
pub fn samples() -> Vec<Vec<u8>> {
    let (id, ids, span) = (lease_id(), provider(), Millis::secs(1));
    let resources = Resources::SMALL;
    let signed = || quote().signed().clone();
    let hash = Digest::of(b"");
    let revocation = Revocation::in_favour_of(&key(2), &key(1));
    let fault = Fault {
        code: ErrorCode::Internal,
        message: String::new(),
        details: Some(String::new()),
        hint: Some(String::new()),
        retry_after_s: Some(1),
    };
    let status = |stage, vm| LeaseStatus {
        lease_id: id,
        stage,
        revision: 1,
        vm,
        fault: Some(fault.clone()),
        guest_user: "root".parse().unwrap(),
        active: Some(signed()),
        receipt: Some(signed()),
        credit_ends: Some(NOW),
        resources: Some(resources),
    };
    let item = || PageItem { advert: signed(), life: span };
    let posting = || Posting::Advert(signed());
    let (shard, block) = (deep(), Some(Block::V4([192, 0, 2])));
    let shared = Shared { shard: shard.clone(), posting: posting(), life: span, block };
    let state = State { shard: shard.clone(), below: Some(1), folded: false, total: Some(1) };
    let server = || (*Server::new(ids, vec!["/ip4/192.0.2.7/tcp/1".parse().unwrap()])).clone();
    let query = Query { want: resources, ..Query::default() };
    let mut all = vec![
        encode(&advert()),
        encode(&Withdrawal { network: network(), provider: ids, seq: 1, issued: NOW }),
        encode(&*revocation),
        revocation.accession.as_ref().unwrap().body.clone(),
        encode(&*quote()),
        encode(&*accept()),
        encode(&*between!(Grant by 1 { lease_id: id, accept_hash: hash, provisional_until: NOW })),
        encode(&*between!(Confirm by 2 { lease_id: id, grant_hash: hash, expires: NOW })),
        encode(&*between!(Active by 1 { lease_id: id, grant_hash: hash, started_at: NOW, ends_at: NOW })),
        encode(&*between!(RenewQuote by 1 {
            lease_id: id, grant_hash: hash, from: NOW, until: NOW, price: price(), hold_until: NOW
        })),
        encode(&*between!(Renew by 2 { lease_id: id, quote_hash: hash, nonce: 1, expires: NOW })),
        encode(&*between!(Renewed by 1 { lease_id: id, renew_hash: hash, ends_at: NOW })),
        encode(&*receipt()),
        encode(&*between!(Countersign by 2 { lease_id: id, receipt_hash: hash, signed_at: NOW })),
        encode(&seed()),
        encode(&TunnelOpen { v: VERSION, lease_id: id, port: 22, log: Some(1) }),
        encode(&TunnelReply::Open),
        encode(&TunnelReply::Refused(Refusal::Denied)),
        // What is given away as JSON has the same names here.
        encode(&LeaseDocument {
            version: LeaseDocument::VERSION,
            network: network(),
            quote: SignedText::from(&signed()),
            accept: SignedText::from(&signed()),
            grant: SignedText::from(&signed()),
            confirm: None,
            active: None,
            renewal: Some((&Renewal { quote: signed(), renew: signed(), renewed: signed() }).into()),
        }),
        encode(&ReceiptDocument { version: 1, network: network(), receipt: (&signed()).into(), countersign: None }),
        encode(&RevocationDocument::from(&revocation)),
    ];
    let put = ShardRequest::Put { shard: shard.clone(), posting: posting(), also: Some(ids) };
    let (act, confirm) = (ActId([1; 16]), ConfirmReq { confirm: signed(), seed: vec![1] });
    let actions = [
        PowerAction::Start,
        PowerAction::Stop { force: true },
        PowerAction::Restart,
        PowerAction::Suspend,
        PowerAction::Resume,
        PowerAction::Scale(resources),
    ];
    let child = Child { shard: shard.clone(), adverts: 1, leaf: true };
    let shards = [
        put,
        ShardRequest::Ask { shard: Shard::WHOLE, query, after: ids, until: ids, limit: 1 },
        ShardRequest::Share { items: vec![shared], states: vec![state.clone()] },
        ShardRequest::Snapshot { shard: Shard::root(Index::All(class())), after: None },
        ShardRequest::Count(child),
        ShardRequest::Invite(vec![state.clone()]),
        ShardRequest::Relieve(state),
    ];
    let postings = [posting(), Posting::Withdrawal(signed()), Posting::Revocation(signed())];
    let requests = [
        Request::Board { after: None, limit: 1, own: false },
        Request::Quote(QuoteReq { create_id: CREATE, spec: spec() }),
        Request::Decline(QuoteId([1; 16])),
        Request::Accept(signed()),
        Request::Confirm(confirm),
        Request::Release(id),
        Request::Status(id),
        Request::Watch { lease_id: id, seen: 1 },
        Request::RenewQuote { lease_id: id, duration: span },
        Request::Renew { quote: signed(), renew: signed() },
        Request::Countersign(signed()),
        Request::Away,
    ];
    let actions = actions.map(|action| Request::Power { lease_id: id, act, action });
    let requests = requests.into_iter().chain(postings.map(Request::Post)).chain(shards.map(Request::Shard));
    all.extend(requests.chain(actions).map(|request| Frame::encode(NOW, request)));

    let page = Page {
        items: vec![item()],
        next: Some(ids),
        total: Some(1),
        revoked: vec![signed()],
        depths: vec![(Index::Whole, 0)],
    };
    let answer = |go| PutAnswer { kept: true, go, adverts: 1, total: None, closer: vec![server()] };
    let shelf = |standing| Shelf { items: vec![item()], sample: Some(item()), next: None, adverts: 1, standing };
    let below = Standing::Split { below: 1 };
    let standings = [Standing::Leaf, Standing::Warming, below, Standing::Absent];
    let goes = [Go::Stay, Go::Down { below: 1 }, Go::Up];
    let shards = [
        ShardResponse::NotHolder { closer: vec![] },
        ShardResponse::Elsewhere(server()),
        ShardResponse::Noted,
        ShardResponse::Counted { merged: true, total: None, closer: vec![] },
    ];
    let shards = shards.into_iter().chain(goes.map(answer).map(ShardResponse::Put));
    let shards = shards.chain(standings.map(shelf).map(ShardResponse::Shelf));
    let running = || status(LeaseStage::Active, VmPhase::Running);
    let responses = [
        Response::Board(page),
        Response::Posted,
        Response::Quote(signed()),
        Response::Declined,
        Response::Granted(signed()),
        Response::Active { active: signed(), status: running() },
        Response::RenewQuote(signed()),
        Response::Renewed { renewed: signed(), status: running() },
        Response::Countersigned,
    ];
    let stages = [LeaseStage::Provisional, LeaseStage::Active, LeaseStage::Expired, LeaseStage::Ended];
    let steps = [ProvisionStep::Image, ProvisionStep::Disk, ProvisionStep::Seed, ProvisionStep::Define];
    let phases = [
        VmPhase::Waiting,
        VmPhase::Booting,
        VmPhase::Running,
        VmPhase::Stopping,
        VmPhase::Stopped,
        VmPhase::Suspended,
        VmPhase::Failed,
        VmPhase::Destroying,
        VmPhase::Gone,
    ];
    let phases = phases.into_iter().chain(steps.map(VmPhase::Provisioning));
    let statuses = stages.map(|stage| status(stage, VmPhase::Gone)).into_iter();
    let statuses = statuses.chain(phases.map(|vm| status(LeaseStage::Active, vm))).map(Response::Status);
    let text = String::new;
    let retry_after_s = Some(1);
    let refused = [
        Refusal::UnknownVersion { supported: VERSION },
        Refusal::Malformed(text()),
        Refusal::NotProviding,
        Refusal::NoSuchImage("tiny".parse().unwrap()),
        Refusal::NoSuchBackend("memory".parse().unwrap()),
        Refusal::Unsuitable(text()),
        Refusal::Exhausted { asked: resources, free: resources, retry_after_s },
        Refusal::TooManyVms { most: 1, retry_after_s },
        Refusal::Quota { tier: quota::Tier::Free, used: Usage { vms: 1, resources }, asked: resources, retry_after_s },
        Refusal::Quota { tier: quota::Tier::Pro, used: Usage::default(), asked: resources, retry_after_s },
        Refusal::LeaseTooLong { longest: span },
        Refusal::StrangersFull { most: 1, retry_after_s },
        Refusal::NoCredit { needed: Sum::ZERO, left: Sum::ZERO, currency: "EUR".parse().unwrap() },
        Refusal::TooManyRequests { retry_after_s: 1 },
        Refusal::Denied,
        Refusal::TooManyFromHere,
        Refusal::Unsigned(text()),
        Refusal::BadSignature(text()),
        Refusal::Expired(text()),
        Refusal::QuoteGone,
        Refusal::Conflict,
        Refusal::NoSuchLease(id),
        Refusal::NotYours(id),
        Refusal::Released(id),
        Refusal::WrongState { is: text(), wanted: text() },
        Refusal::BadSeed(text()),
        Refusal::NoSuchPort(1),
        Refusal::Backend(fault.clone()),
    ];
    let codes = ErrorCode::ALL.iter().map(|code| Refusal::Backend(Fault { code: *code, ..fault.clone() }));
    let refused = refused.into_iter().chain(codes).map(Response::Refused);
    let responses = responses.into_iter().chain(shards.map(Response::Shard)).chain(statuses).chain(refused);
    all.extend(responses.map(|response| Frame::encode(NOW, response)));
    // Words that no message above has all of.
    all.extend([encode(&Tier::ALL), encode(&Arch::ALL), encode(&Isolation::ALL), encode(&Block::V6([0; 6]))]);
    all.extend([encode(&[IsolationWanted::Vm, IsolationWanted::Any]), encode(&[Egress::None, Egress::Open])]);
    all
}
