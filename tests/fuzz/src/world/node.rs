//! One node of the world: its core, its disk, and what must hold of both after everything that happens.
use super::{START, key, network};
use crate::messages::is_no;
use crate::must_be_plain;
use protocol::advert::MAX_ADDRS;
use protocol::board::{MAX_ADVERTS, Posting};
use protocol::codec::{self, MAX_MESSAGE};
use protocol::core::{Effect, NodeCore, StoreOp, Table};
use protocol::ledger::MAX_HOLDS;
use protocol::message::{Frame, Request, Response};
use protocol::units::{Resources, Timestamp};
use protocol::{Fault, Keypair, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// A sentence that quotes a peer's sentence, and the details of sixteen providers that refused.
const SENTENCE: usize = 2048;
const DETAILS: usize = 64 * 1024;
/// Board, holds, leases, rentals: an input of some hundred steps comes nowhere near, unless something runs away.
const ROWS: usize = 1024;

pub(super) struct Node {
    pub key: Keypair,
    pub core: NodeCore,
    disk: BTreeMap<(Table, Vec<u8>), StoreOp>,
    /// Requests of the other node that are not answered yet, and its number for each.
    tokens: BTreeMap<u64, Option<(usize, u64)>>,
    next_token: u64,
    /// The last message of gossip that was judged.
    pub judged: u64,
    /// The most VMs that were ever offered.
    pub offered: u32,
    pub unanswered: Vec<u64>,
    /// Lookups of holders.
    pub tickets: Vec<u64>,
}

impl Node {
    pub fn new(number: u8) -> Self {
        let key = key(number);
        let core = NodeCore::new(START, key.clone(), network(), [number; 32], vec![]).expect("nothing is stored");
        Node {
            key,
            core,
            disk: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            judged: 0,
            offered: 0,
            unanswered: Vec::new(),
            tickets: Vec::new(),
        }
    }
    pub fn id(&self) -> PeerId {
        self.key.peer_id()
    }
    pub fn token(&mut self, asker: Option<(usize, u64)>) -> u64 {
        self.next_token += 1;
        self.tokens.insert(self.next_token, asker);
        self.next_token
    }
    pub fn replied(&mut self, token: u64) -> Option<(usize, u64)> {
        self.tokens.remove(&token).expect("a request is answered once, and only one that was made")
    }

    /// Whoever asked has gone.
    pub fn forget_asker(&mut self, node: usize) {
        self.tokens.values_mut().for_each(|asker| *asker = asker.filter(|(asker, _)| *asker != node));
    }

    /// Back from its disk, with other luck.
    pub fn restart(&mut self, now: Timestamp) {
        let stored = self.disk.values().cloned().collect();
        self.next_token += 1;
        let luck = [self.next_token as u8; 32];
        self.core = NodeCore::new(now, self.key.clone(), network(), luck, stored).expect("what it wrote it reads");
        self.tokens.clear();
        self.unanswered.clear();
        self.tickets.clear();
    }

    /// Does what can be done here, and gives back what concerns others.
    pub fn perform(&mut self, effect: Effect) -> Option<Effect> {
        match &effect {
            Effect::Persist(ops) => ops.iter().for_each(|op| self.persist(op)),
            Effect::Judge { id, verdict } => {
                assert_eq!(*id, self.judged + 1, "in their order");
                self.judged = *id;
                assert!(!is_no(*verdict) || self.core.board().len() <= MAX_ADVERTS);
            }
            Effect::Publish(body) => self.published(body),
            Effect::Send { body, .. } => {
                assert!(Frame::<Request>::decode(body).is_ok(), "its own words are well said");
                return Some(effect);
            }
            Effect::Reply { body, .. } => {
                let frame = Frame::<Response>::decode(body).expect("its own words are well said");
                if let Response::Refused(refusal) = frame.body {
                    fault(&Fault::from(refusal).from_peer());
                }
                return Some(effect);
            }
            Effect::Learn { addrs, .. } => {
                assert!(addrs.len() <= MAX_ADDRS);
                addrs.iter().for_each(|addr| must_be_plain(addr.as_str(), 1024));
            }
            Effect::Answer { result: Err(why), .. } => fault(why),
            Effect::Notice { message, .. } => must_be_plain(message, SENTENCE),
            Effect::Event(event) => {
                must_be_plain(&event.message, SENTENCE);
                event.subject.iter().for_each(|subject| must_be_plain(subject, 64));
            }
            _ => {}
        }
        matches!(effect, Effect::Publish(_) | Effect::FindHolders { .. }).then_some(effect)
    }

    fn persist(&mut self, op: &StoreOp) {
        let at = (op.table, op.key.clone());
        match &op.value {
            Some(value) => {
                assert!(value.len() <= codec::MAX_STORED);
                self.disk.insert(at, op.clone())
            }
            None => self.disk.remove(&at),
        };
    }

    /// A node says nothing on the board but in its own name.
    fn published(&self, body: &[u8]) {
        let posting: Posting = codec::decode(body, MAX_MESSAGE).expect("its own words are well said");
        // Of others' words it publishes what was handed over and holds for everybody.
        let own = posting.signed().signer == self.id();
        assert!(own || matches!(posting, Posting::Revocation(_)));
    }

    pub fn check(&self, now: Timestamp) {
        static KNOWN: OnceLock<BTreeSet<PeerId>> = OnceLock::new();
        let known = KNOWN.get_or_init(|| (1..=12).map(|number| key(number).peer_id()).collect());
        let board = self.core.board();
        assert!(board.len() <= known.len());
        let page = board.page(now, None, usize::MAX);
        assert!(page.items.iter().all(|item| known.contains(&item.advert.signer)), "nobody else can sign");
        let ledger = self.core.provider().ledger();
        assert!(ledger.holds().count() <= MAX_HOLDS.min(ROWS) && ledger.leases().count() <= ROWS);
        let most = Resources::new(self.offered, 1024 * u64::from(self.offered), 10 * u64::from(self.offered));
        assert!(ledger.taken().fits_in(most), "{} let, and {most} offered", ledger.taken());
        for rental in self.core.requestor().rentals() {
            let status = rental.status.as_ref().and_then(|status| status.fault.as_ref());
            rental.fault.iter().chain(status).chain(rental.tried.iter().map(|(_, why)| why)).for_each(fault);
            assert!(rental.tried.len() <= 64);
        }
        assert!(self.core.next_deadline().is_none_or(|due| due > now));
    }
}

fn fault(fault: &Fault) {
    must_be_plain(&fault.message, SENTENCE);
    fault.hint.iter().for_each(|hint| must_be_plain(hint, SENTENCE));
    fault.details.iter().for_each(|details| must_be_plain(details, DETAILS));
}
