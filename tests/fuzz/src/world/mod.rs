//! Two nodes that rent from each other, and a wire between them that is in hostile hands: what is under way is
//! delivered, changed, changed and signed again by its sender, cut, replaced, lost or said twice; strangers say what
//! they like; clocks move; nodes crash and come back from their disks. The input is the order of all this.
mod node;
pub mod ops;
mod shards;

use crate::Bytes;
use node::Node;
use protocol::advert::{Advert, Terms};
use protocol::codec;
use protocol::core::provider::{Offer, OfferedImage};
use protocol::envelope::{Payload, Signed};
use protocol::message::{Frame, Request, Response};
use protocol::money::Price;
use protocol::names::{Arch, Digest, Egress, Isolation, Network};
use protocol::seed::Seed;
use protocol::units::{DiskGib, Millis, Resources, Timestamp};
use protocol::{Fault, Keypair, PeerId};
use std::str::FromStr;

const ADDR: &str = "/ip4/192.0.2.1/tcp/4001";
/// Some day in 2023.
pub const START: Timestamp = Timestamp(1_700_000_000_000);
/// An input is as many things that happen; what follows says nothing new.
const STEPS: usize = 256;
/// Messages under way at once; the oldest is lost.
const WIRE: usize = 64;

pub fn key(number: u8) -> Keypair {
    Keypair::from_secret(&[number; 32])
}
pub fn network() -> Network {
    read("main")
}
fn read<T: FromStr<Err = Fault>>(text: &str) -> T {
    text.parse().expect("a constant that is valid")
}

/// A body, well signed, whatever is in it.
pub fn sign<T: Payload>(key: &Keypair, body: &[u8]) -> Signed {
    sign_as(key, T::DOMAIN, body.to_vec())
}
pub fn sign_as(key: &Keypair, domain: &str, body: Vec<u8>) -> Signed {
    let mut bytes = domain.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&body);
    Signed { domain: domain.to_owned(), signer: key.peer_id(), signature: key.sign(&bytes).to_vec(), body }
}

pub fn advert(key: &Keypair) -> Advert {
    Advert {
        network: network(),
        provider: key.peer_id(),
        seq: 1,
        issued: START,
        addrs: vec![read(ADDR)],
        terms: terms(),
    }
}
pub fn terms() -> Terms {
    Terms {
        name: Some(read("host-1.example")),
        country: Some(read("DE")),
        arch: Arch::X86_64,
        backend: read("memory"),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        free: Resources::LARGE,
        largest: Resources::LARGE,
        overcommit_cpu: Default::default(),
        price: Price { per_hour: read("0.02"), currency: read("EUR") },
        images: vec![read("tiny"), read("debian:12")],
    }
}
pub fn tenants_seed() -> Vec<u8> {
    Seed {
        hostname: read("web"),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
        host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        user_data: None,
    }
    .encode()
}

fn offer(vms: u32) -> Offer {
    let image = OfferedImage { digest: Digest([1; 32]), user: read("root"), least_disk: DiskGib(1) };
    Offer {
        name: None,
        country: Some(read("DE")),
        arch: Arch::X86_64,
        backend: read("memory"),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        total: Resources::new(vms, 1024 * u64::from(vms), 10 * u64::from(vms)),
        overcommit_cpu: Default::default(),
        max_vms: vms,
        minimum: Resources::new(1, 128, 1),
        max_lease: Millis::secs(86_400),
        strangers: Default::default(),
        unused_stop: None,
        prepaid: false,
        grace: Millis::secs(3600),
        price: Price { per_hour: read("0.02"), currency: read("EUR") },
        images: [(read("tiny"), image)].into(),
        policy: Default::default(),
        slots: Default::default(),
    }
}

/// Something under way, to the node `to`.
#[derive(Clone)]
enum Flight {
    Request { from: PeerId, asker: Option<usize>, rpc: u64, to: usize, body: Vec<u8> },
    Response { from: PeerId, rpc: u64, to: usize, body: Vec<u8> },
    Gossip { from: PeerId, to: usize, body: Vec<u8> },
}

impl Flight {
    fn body(&mut self) -> &mut Vec<u8> {
        match self {
            Flight::Request { body, .. } | Flight::Response { body, .. } | Flight::Gossip { body, .. } => body,
        }
    }
    fn from(&self) -> PeerId {
        match self {
            Flight::Request { from, .. } | Flight::Response { from, .. } | Flight::Gossip { from, .. } => *from,
        }
    }
}

struct World {
    now: Timestamp,
    nodes: [Node; 2],
    wire: Vec<Flight>,
    creates: u8,
}

/// The target.
pub fn core(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut world = World { now: START, nodes: [Node::new(1), Node::new(2)], wire: Vec::new(), creates: 0 };
    world.offer(1, 2);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.settle();
    }
    // Whatever was written is read again.
    world.restart(0);
    world.restart(1);
    world.settle();
}

/// Its sender's own change of what it said: the byte at `at` of what is signed, signed again.
fn resigned(body: &[u8], key: &Keypair, at: u16, flip: u8) -> Option<Vec<u8>> {
    let change = |signed: &mut Signed| {
        let length = signed.body.len().max(1);
        if let Some(byte) = signed.body.get_mut(usize::from(at) % length) {
            *byte ^= flip;
        }
        *signed = sign_as(key, &signed.domain, std::mem::take(&mut signed.body));
    };
    if let Ok(mut frame) = Frame::<Request>::decode(body) {
        match &mut frame.body {
            Request::Accept(signed) => change(signed),
            Request::Confirm(confirm) => change(&mut confirm.confirm),
            _ => return None,
        }
        return Some(codec::encode(&frame));
    }
    let mut frame = Frame::<Response>::decode(body).ok()?;
    match &mut frame.body {
        Response::Quote(signed) | Response::Granted(signed) | Response::Active { active: signed, .. } => change(signed),
        Response::Board(page) => page.items.iter_mut().for_each(|item| change(&mut item.advert)),
        _ => return None,
    }
    Some(codec::encode(&frame))
}
