//! Frames that no node of ours would send, for each protocol: random, cut short, too long, changed in places, and
//! well formed around what is not.
use super::Names;
use protocol::advert::{Advert, Terms};
use protocol::board::Posting;
use protocol::codec::{MAX_MESSAGE, encode};
use protocol::envelope::{Payload, Sealed, Signed};
use protocol::message::{Frame, QuoteReq, Request};
use protocol::names::{Arch, CreateId, Egress, Isolation, LeaseId};
use protocol::spec::VmSpec;
use protocol::tunnel::{MAX_HEADER, TunnelOpen};
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{Keypair, PeerId};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Control,
    Gossip,
    Tunnel,
    Kad,
    Identify,
}

impl Target {
    pub const ALL: [Target; 5] = [Target::Control, Target::Gossip, Target::Tunnel, Target::Kad, Target::Identify];
    pub fn name(self) -> &'static str {
        match self {
            Target::Control => "control",
            Target::Gossip => "gossip",
            Target::Tunnel => "tunnel",
            Target::Kad => "kad",
            Target::Identify => "identify",
        }
    }
}

pub struct Frames {
    pub rng: ChaCha8Rng,
    target: Target,
    names: Names,
    /// Good ones, to be spoilt.
    good: Vec<Vec<u8>>,
}

/// The lengths that the node's own limits are at, and beyond.
const KAD_LIMIT: usize = 16 * 1024;
const IDENTIFY_LIMIT: usize = 4096;
const GOSSIP_LIMIT: usize = 16 * 1024 + 512;

impl Frames {
    pub fn new(target: Target, names: &Names, network: &str, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let good = match target {
            Target::Control => requests(network),
            Target::Gossip => rpcs(names, network, &mut rng),
            Target::Tunnel => {
                vec![framed16(encode(&TunnelOpen { v: 1, lease_id: LeaseId([7; 16]), port: 22, log: None }))]
            }
            Target::Kad => (0..6).map(|kind| varint_framed(kad(kind, &mut rng))).collect(),
            Target::Identify => vec![varint_framed(identity(names, &mut rng))],
        };
        Frames { rng, target, names: names.clone(), good }
    }

    /// The next, and whether the stream that it comes on can be used after it.
    pub fn another(&mut self) -> (Vec<u8>, bool) {
        let kind = self.below(8);
        match (self.target, kind) {
            (_, 0) => (self.random(600), false),
            (_, 1) => (self.cut(), false),
            (_, 2) => (self.too_long(), false),
            (_, 3) => (self.changed(), false),
            (Target::Gossip, _) => (self.gossip(kind), true),
            (Target::Control, _) => {
                let body = self.random(300);
                (framed32(body), false)
            }
            (Target::Tunnel, 4) => {
                let lease_id = LeaseId(self.array());
                (framed16(encode(&TunnelOpen { v: self.below(3) as u8, lease_id, port: 22, log: None })), false)
            }
            (Target::Tunnel, _) => {
                let body = self.random(200);
                (framed16(body), false)
            }
            (Target::Kad, _) => {
                let kind = self.rng.next_u32() % 9;
                (varint_framed(kad(kind, &mut self.rng)), false)
            }
            (Target::Identify, _) => {
                let names = self.names.clone();
                (varint_framed(identity(&names, &mut self.rng)), false)
            }
        }
    }

    pub fn rng_is_even(&mut self) -> bool {
        self.below(2) == 0
    }
    fn below(&mut self, most: u32) -> u32 {
        self.rng.next_u32() % most
    }
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
    pub fn random(&mut self, most: u32) -> Vec<u8> {
        let mut bytes = vec![0; 1 + self.below(most) as usize];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
    fn one_good(&mut self) -> Vec<u8> {
        let at = self.below(self.good.len() as u32) as usize;
        self.good[at].clone()
    }
    fn cut(&mut self) -> Vec<u8> {
        let mut bytes = self.one_good();
        let keep = 1 + self.below(bytes.len() as u32 - 1) as usize;
        bytes.truncate(keep);
        bytes
    }
    fn changed(&mut self) -> Vec<u8> {
        let mut bytes = self.one_good();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() as u32) as usize;
            bytes[at] ^= 1 << self.below(8);
        }
        bytes
    }
    /// A length over the limit, by one or by as much as can be said, and a little of what it promises.
    fn too_long(&mut self) -> Vec<u8> {
        let huge = self.below(2) == 0;
        let mut bytes = match (self.target, huge) {
            (Target::Control, true) => u32::MAX.to_be_bytes().to_vec(),
            (Target::Control, false) => (MAX_MESSAGE as u32 + 1).to_be_bytes().to_vec(),
            (Target::Tunnel, true) => u16::MAX.to_be_bytes().to_vec(),
            (Target::Tunnel, false) => (MAX_HEADER as u16 + 1).to_be_bytes().to_vec(),
            (_, true) => vec![0xff; 12],
            (Target::Gossip, false) => varint(GOSSIP_LIMIT as u64 + 1),
            (Target::Kad, false) => varint(KAD_LIMIT as u64 + 1),
            (Target::Identify, false) => varint(IDENTIFY_LIMIT as u64 + 1),
        };
        bytes.extend(self.random(64));
        bytes
    }
    /// Whole messages of gossipsub, and what is in them is not.
    fn gossip(&mut self, kind: u32) -> Vec<u8> {
        let (topic, junk) = (self.names.topic.clone(), self.random(300));
        let rpc = match kind {
            4 => field(2, &[field(2, &junk), field(4, topic.as_bytes())].concat()),
            // Signed and numbered, where nothing is.
            5 => field(2, &[field(1, &junk), field(2, &junk), field(3, &[1; 8]), field(4, topic.as_bytes())].concat()),
            6 => {
                let ids: Vec<u8> = (0..20).flat_map(|n| field(2, &[n, junk[0], 3])).collect();
                let have = field(1, &[field(1, topic.as_bytes()), ids.clone()].concat());
                field(3, &[have, field(2, &ids), field(3, &field(1, &junk)), field(4, &field(1, &junk))].concat())
            }
            _ => {
                let subscription = [vec![8, 1], field(2, &junk)].concat();
                field(1, &subscription)
            }
        };
        varint_framed(rpc)
    }
}

fn framed32(body: Vec<u8>) -> Vec<u8> {
    [(body.len() as u32).to_be_bytes().to_vec(), body].concat()
}
fn framed16(body: Vec<u8>) -> Vec<u8> {
    [(body.len() as u16).to_be_bytes().to_vec(), body].concat()
}
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
pub fn varint_framed(body: Vec<u8>) -> Vec<u8> {
    [varint(body.len() as u64), body].concat()
}
/// A field of protobuf that has a length.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn requests(network: &str) -> Vec<Vec<u8>> {
    let spec = VmSpec {
        resources: Resources::SMALL,
        image: "tiny".parse().expect("an image"),
        isolation: Default::default(),
        arch: None,
        backend: None,
        ports: vec![80],
        duration: Millis::secs(60),
        or_less: false,
    };
    let sent = node::clock::now();
    let all = [
        Request::Board { after: None, limit: 1, own: false },
        Request::Post(posting(network, sent)),
        Request::Quote(QuoteReq { create_id: CreateId([1; 16]), spec }),
        Request::Release(LeaseId([2; 16])),
        Request::Status(LeaseId([2; 16])),
    ];
    all.into_iter().map(|request| framed32(Frame::encode(sent, request))).collect()
}

/// Nobody's word: it is signed, but not by whom it names.
fn posting(network: &str, issued: Timestamp) -> Posting {
    let (by, other) = (Keypair::from_secret(&[0x77; 32]), PeerId::from_public_key([0x66; 32]));
    let terms = Terms {
        name: None,
        country: None,
        arch: Arch::X86_64,
        backend: "libvirt".parse().expect("a backend"),
        isolation: Isolation::Hardware,
        egress: Egress::None,
        free: Resources::LARGE,
        largest: Resources::LARGE,
        overcommit_cpu: Default::default(),
        price: protocol::money::Price {
            per_hour: "0".parse().expect("money"),
            currency: "EUR".parse().expect("money"),
        },
        images: vec![],
    };
    let network = network.parse().expect("a network");
    let good =
        Sealed::seal(Advert { network, provider: by.peer_id(), seq: issued.0, issued, addrs: vec![], terms }, &by);
    Posting::Advert(Signed { signer: other, domain: Advert::DOMAIN.into(), ..good.signed().clone() })
}

fn rpcs(names: &Names, network: &str, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let data = encode(&posting(network, node::clock::now()));
    let message = field(2, &[field(2, &data), field(4, names.topic.as_bytes())].concat());
    let subscribe = field(1, &[vec![8, 1], field(2, names.topic.as_bytes())].concat());
    let mut id = vec![0; 20];
    rng.fill_bytes(&mut id);
    let want = field(3, &field(2, &field(1, &id)));
    [message, subscribe, want].into_iter().map(varint_framed).collect()
}

/// A message of Kademlia: its type, a key, a record, peers who are nobody and live nowhere.
fn kad(kind: u32, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut junk = vec![0; 1 + rng.next_u32() as usize % 60];
    rng.fill_bytes(&mut junk);
    let nobody = field(9, &[field(1, &junk), field(2, &junk), vec![0x18, 9]].concat());
    let mut message = [vec![8], varint(u64::from(kind)), field(2, &junk)].concat();
    match rng.next_u32() % 4 {
        0 => message.extend(field(3, &[field(1, &junk), field(2, &junk)].concat())),
        1 => message.extend(nobody),
        2 => message.extend(field(8, &field(1, &junk))),
        _ => {}
    }
    message
}

/// What a peer says of itself, none of it true.
pub fn identity(names: &Names, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut junk = vec![0; 1 + rng.next_u32() as usize % 60];
    rng.fill_bytes(&mut junk);
    let mut message = Vec::new();
    let spoken = [names.control.as_bytes(), names.kad.as_bytes(), b"\x1b[2J", b"no slash"];
    for protocol in &spoken[..2 + rng.next_u32() as usize % 3] {
        message.extend(field(3, protocol));
    }
    match rng.next_u32() % 6 {
        0 => message.extend(field(1, &junk)),
        1 => message.extend(field(6, "\u{1b}]0;title\u{7}\u{202e}".repeat(40).as_bytes())),
        2 => {
            let port = rng.next_u32();
            let addr = |n: u32| [vec![4, 127, 0, 0, 1, 6], ((port + n) as u16).to_be_bytes().to_vec()].concat();
            (0..200).for_each(|n| message.extend(field(2, &addr(n))));
        }
        3 => message.extend(field(2, &junk)),
        4 => message.extend(field(8, &junk)),
        _ => message.extend(field(4, &junk)),
    }
    message
}
