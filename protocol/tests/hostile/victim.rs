//! The node that all this is aimed at: it provides, knows some honest providers, and must be after it what it was
//! before.
use super::flaws::{Bad, Flaw, seal, taken_back};
use protocol::advert::{Advert, Terms, Withdrawal};
use protocol::board::{Page, PageItem, Posting};
use protocol::codec::{self, MAX_ADVERT, MAX_MESSAGE};
use protocol::core::provider::{Offer, OfferedImage, Offering};
use protocol::core::{Effect, Input, NodeCore, Severity, Verdict};
use protocol::envelope::Signed;
use protocol::message::{Frame, Request, Response};
use protocol::money::Price;
use protocol::names::{Arch, Digest, Egress, Isolation, Network};
use protocol::revocation::Revocation;
use protocol::units::{DiskGib, Millis, Resources, Timestamp};
use protocol::{Keypair, PeerId};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

pub const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// The victim's own key; honest providers have the numbers below `HONEST`.
const ME: u32 = 500;
pub const HONEST: u32 = 32;
/// The number of what they have said.
pub const ON_BOARD: u64 = 1_000;
/// The last of them has withdrawn.
pub const GONE: u32 = 8;
/// From here on, as many whose keys are revoked.
pub const REVOKED: u32 = 600;
/// Adverts whose terms a page may name.
const LIFE: Millis = Millis::secs(250);

/// How it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Gossip,
    Posted,
    Page,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Gossip, Way::Posted, Way::Page];
    /// The most bytes that are decoded at all.
    pub fn longest(self) -> usize {
        match self {
            Way::Gossip => MAX_ADVERT + 512,
            Way::Posted | Way::Page => MAX_MESSAGE,
        }
    }
}

pub fn key(number: u32) -> Keypair {
    let mut secret = [0x5a; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    Keypair::from_secret(&secret)
}
pub fn network() -> Network {
    "main".parse().unwrap()
}
pub fn advert(by: &Keypair) -> Advert {
    let terms = Terms {
        name: Some("host.example".parse().unwrap()),
        country: Some("DE".parse().unwrap()),
        arch: Arch::X86_64,
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Hardware,
        egress: Egress::None,
        free: Resources::LARGE,
        largest: Resources::LARGE,
        overcommit_cpu: Default::default(),
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: vec!["debian:12".parse().unwrap(), "tiny".parse().unwrap()],
    };
    Advert { network: network(), provider: by.peer_id(), seq: ON_BOARD, issued: NOW, addrs: vec![], terms }
}
pub fn withdrawal(by: &Keypair, seq: u64, issued: Timestamp) -> Withdrawal {
    Withdrawal { network: network(), provider: by.peer_id(), seq, issued }
}

fn offer() -> Offer {
    let image = OfferedImage { digest: Digest([1; 32]), user: "root".parse().unwrap(), least_disk: DiskGib(1) };
    Offer {
        name: None,
        country: Some("DE".parse().unwrap()),
        arch: Arch::X86_64,
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Hardware,
        egress: Egress::None,
        total: Resources::LARGE,
        overcommit_cpu: Default::default(),
        max_vms: 4,
        minimum: Resources::new(1, 128, 1),
        max_lease: Millis::secs(86_400),
        strangers: Default::default(),
        unused_stop: None,
        prepaid: false,
        grace: Millis::secs(3600),
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: [("tiny".parse().unwrap(), image)].into(),
        policy: Default::default(),
        slots: Default::default(),
    }
}

pub struct Victim {
    core: NodeCore,
    /// Signed by the honest, and on the board; the first is its own.
    pub there: Vec<Signed>,
    /// Withdrawn, with the words that withdrew them.
    pub gone: Vec<Signed>,
    pub withdrawals: Vec<Signed>,
    revision: u64,
    number: u64,
    /// The page that it waits for.
    asked: Option<u64>,
    /// Who sends all this, and whose board is being read.
    peers: Vec<PeerId>,
    neighbour: usize,
    /// Security events are told a few at a time, whatever comes.
    events: u64,
}

impl Victim {
    pub fn new(rng: &mut ChaCha8Rng) -> Self {
        let mut luck = [0; 32];
        rng.fill_bytes(&mut luck);
        let mut core = NodeCore::new(NOW, key(ME), network(), luck, vec![]).unwrap();
        core.handle(NOW, Input::Offer(Offering::Vms(Box::new(offer()))));
        let mut there: Vec<Signed> =
            core.board().page(NOW, None, 9).items.into_iter().map(|item| item.advert).collect();
        assert_eq!(there.len(), 1, "it offers");
        core.drain_effects().for_each(drop);
        let mut victim = Victim {
            core,
            there: vec![],
            gone: vec![],
            withdrawals: vec![],
            revision: 0,
            number: 0,
            asked: None,
            peers: (700..732).map(|number| key(number).peer_id()).collect(),
            neighbour: 0,
            events: 0,
        };
        for by in (0..HONEST).map(key) {
            let signed = seal(advert(&by), &by);
            victim.enjoy(Posting::Advert(signed.clone()));
            there.push(signed);
        }
        for by in (HONEST..HONEST + GONE).map(key) {
            victim.gone.push(seal(advert(&by), &by));
            victim.withdrawals.push(taken_back(&by, ON_BOARD + 1, NOW));
        }
        for (advert, withdrawal) in victim.gone.clone().into_iter().zip(victim.withdrawals.clone()) {
            victim.enjoy(Posting::Advert(advert));
            victim.enjoy(Posting::Withdrawal(withdrawal));
        }
        for by in (REVOKED..REVOKED + GONE).map(key) {
            victim.enjoy(Posting::Revocation(Revocation::of(&by).signed().clone()));
        }
        victim.there = there;
        victim.revision = victim.core.board().revision();
        victim.is_as_it_was();
        victim
    }

    pub fn honest(&self) -> impl Iterator<Item = Keypair> {
        (0..HONEST).map(key)
    }

    /// What is good is taken and forwarded.
    pub fn enjoy(&mut self, posting: Posting) {
        self.number += 1;
        let id = self.number;
        let (from, body) = (self.peers[0], codec::encode(&posting));
        self.core.handle(NOW, Input::Gossip { id, from, body });
        let accepted = |effect: Effect| matches!(effect, Effect::Judge { verdict: Verdict::Accept, .. });
        assert!(self.core.drain_effects().any(accepted), "{posting:?}");
    }

    /// The board has what it had, every byte of it.
    pub fn is_as_it_was(&self) {
        let page = self.core.board().page(NOW, None, usize::MAX);
        let mut expected: Vec<&Signed> = self.there.iter().collect();
        expected.sort_by_key(|signed| signed.signer);
        let found: Vec<&Signed> = page.items.iter().map(|item| &item.advert).collect();
        assert_eq!(found, expected);
        // 64 in 10 s of the node's own clock, which stands still here.
        assert!(self.events <= 64, "{} events", self.events);
    }

    pub fn suffer(&mut self, way: Way, bad: Vec<(Flaw, Bad)>) -> Result<(), String> {
        let flaws: Vec<Flaw> = bad.iter().map(|(flaw, _)| *flaw).collect();
        self.number += 1;
        let number = self.number;
        let from = self.peers[number as usize % self.peers.len()];
        match way {
            Way::Gossip | Way::Posted => {
                let (flaw, bad) = bad.into_iter().next().ok_or("nothing came")?;
                let body = match bad {
                    Bad::Bytes(bytes) => bytes,
                    Bad::Posting(posting) if way == Way::Gossip => codec::encode(&posting),
                    Bad::Posting(posting) => Frame::encode(NOW, Request::Post(posting)),
                };
                let input = match way {
                    Way::Gossip => Input::Gossip { id: number, from, body },
                    _ => Input::Request { token: number, from, site: None, body },
                };
                self.core.handle(NOW, input);
                self.judged(way, number, flaw)?;
            }
            Way::Page => self.page(bad)?,
        }
        let board = self.core.board();
        let revoked = self.core.revoked().len() == GONE as usize;
        if !revoked || (board.len(), board.revision()) != (self.there.len(), self.revision) {
            return Err(format!("by {way:?} one of {flaws:?} was kept"));
        }
        Ok(())
    }

    /// One effect answers, others may tell of it; nothing else happens.
    fn judged(&mut self, way: Way, number: u64, flaw: Flaw) -> Result<(), String> {
        let mut answers = 0;
        let effects: Vec<Effect> = self.core.drain_effects().collect();
        for effect in effects {
            match effect {
                Effect::Judge { id, verdict } if way == Way::Gossip && id == number => {
                    let expected = if flaw.is_innocent() { Verdict::Ignore } else { Verdict::Reject };
                    if verdict != expected {
                        return Err(format!("{flaw:?} by gossip: {verdict:?}"));
                    }
                    answers += 1;
                }
                Effect::Reply { token, body } if way == Way::Posted && token == number => {
                    let frame = Frame::<Response>::decode(&body).map_err(|error| format!("{error:?}"))?;
                    match frame.body {
                        Response::Refused(refusal) if refusal.code() == flaw.code() => {}
                        other => return Err(format!("{flaw:?} handed over: {other:?}")),
                    }
                    answers += 1;
                }
                other => self.allowed(other)?,
            }
        }
        (answers == 1).then_some(()).ok_or_else(|| format!("{flaw:?} by {way:?}: {answers} answers"))
    }

    /// It may remember who it was; it publishes, stores and starts nothing.
    fn allowed(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Event(event) if event.severity != Severity::Critical => {
                self.events += 1;
                Ok(())
            }
            // Counted by the node, against who sent it.
            Effect::Offence { by, .. } if self.peers.contains(&by) => Ok(()),
            other => Err(format!("this follows: {other:?}")),
        }
    }

    /// The answer of a neighbour whose board it reads.
    fn page(&mut self, bad: Vec<(Flaw, Bad)>) -> Result<(), String> {
        let rpc = match self.asked.take() {
            Some(rpc) => rpc,
            None => self.meet()?,
        };
        let item = |(_, bad)| match bad {
            Bad::Posting(Posting::Advert(advert)) => Ok(PageItem { advert, life: LIFE }),
            other => Err(format!("not for a page: {other:?}")),
        };
        let items = bad.into_iter().map(item).collect::<Result<_, _>>()?;
        // There is always more, so that it goes on asking.
        let mut next = [0; 32];
        next[..8].copy_from_slice(&self.number.to_be_bytes());
        let page = Page { items, next: Some(PeerId::from_public_key(next)), ..Page::default() };
        let body = Frame::encode(NOW, Response::Board(page));
        self.core.handle(NOW, Input::Response { rpc, result: Ok(body) });
        self.next_page()
    }

    fn meet(&mut self) -> Result<u64, String> {
        let old = self.peers[self.neighbour];
        self.core.handle(NOW, Input::PeerDisconnected(old));
        self.neighbour = (self.neighbour + 1) % self.peers.len();
        self.core.handle(NOW, Input::PeerConnected(self.peers[self.neighbour]));
        self.next_page()?;
        self.asked.take().ok_or_else(|| "it does not read a new neighbour's board".to_owned())
    }

    fn next_page(&mut self) -> Result<(), String> {
        let effects: Vec<Effect> = self.core.drain_effects().collect();
        for effect in effects {
            match effect {
                Effect::Send { rpc, .. } => self.asked = Some(rpc),
                other => self.allowed(other)?,
            }
        }
        Ok(())
    }
}
