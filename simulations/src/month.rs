//! Many VMs of one provider, rented, renewed, switched off and on, left to expire and given back for weeks, while prices
//! change. What receipts say is held against a bookkeeper of its own, who knows only when guests ran and what tenants
//! asked for. Tenants are awake once an hour: receipts wait for them.
use crate::rng::Dice;
use crate::scenario::{Scenario, wish};
use protocol::core::provider::{Offer, Offering};
use protocol::core::requestor::{CreateRequest, Phase};
use protocol::core::{Effect, Input, NodeCore, StoreOp, Table, Work};
use protocol::job::{Found, FoundState, JobId, JobReport};
use protocol::ledger::LeaseRow;
use protocol::message::{LeaseStage, PowerAction, VmPhase};
use protocol::money::{Price, Sum};
use protocol::names::{CreateId, LeaseId};
use protocol::receipt::{Countersign, Line, Receipt, ReceiptRow};
use protocol::spec::VmSpec;
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{Keypair, PeerId};
use std::collections::{BTreeMap, VecDeque};

const START: Timestamp = Timestamp(1_700_000_000_000);
const HOUR: Millis = Millis::secs(3600);
const LOOK: Millis = Millis::secs(600);
const GRANTED: &str = "1000000";
const NETWORK: &str = "main";

/// What came out, for those who look at it.
#[derive(Debug, Default)]
pub struct Books {
    pub leases: usize,
    pub renewals: usize,
    pub receipts: usize,
    pub countersigned: usize,
    pub seconds: u64,
    pub total: Sum,
}

/// The bookkeeper's page for one lease.
struct Page {
    requestor: usize,
    /// From when on which price holds.
    prices: Vec<(Timestamp, Price)>,
    ends_at: Timestamp,
    /// When it was at its tenant's service.
    spans: Vec<(Timestamp, Timestamp)>,
    on_since: Option<Timestamp>,
}

impl Page {
    fn stop(&mut self, now: Timestamp) {
        if let Some(since) = self.on_since.take() {
            self.spans.push((since, now.min(self.ends_at)));
        }
    }
    /// What it should come to, price by price.
    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<(Price, u64)> = Vec::new();
        for (at, (from, price)) in self.prices.iter().enumerate() {
            let until = self.prices.get(at + 1).map_or(Timestamp(u64::MAX), |(next, _)| *next);
            let part = |(on, off): &(Timestamp, Timestamp)| (*off.min(&until) - *on.max(from)).0;
            let time = self.spans.iter().map(part).sum::<u64>();
            match lines.last_mut().filter(|(last, _)| last == price) {
                Some((_, all)) => *all += time,
                None => lines.push((price.clone(), time)),
            }
        }
        // A price that was agreed for later and never came to hold is on no receipt.
        let held = self.spans.last().map_or(Timestamp(0), |(_, off)| *off);
        let begun = self.prices.iter().filter(|(from, _)| *from <= held).count();
        let begun = self.prices[..begun].iter().fold(Vec::<&Price>::new(), |mut all, (_, price)| {
            if all.last() != Some(&price) {
                all.push(price);
            }
            all
        });
        lines.truncate(begun.len().max(1));
        lines.into_iter().map(|(price, time)| Line { price, seconds: time / 1000 }).collect()
    }
}

struct Guest {
    on: bool,
}

pub struct Month {
    now: Timestamp,
    dice: Dice,
    /// The provider first.
    cores: Vec<NodeCore>,
    mail: VecDeque<(usize, Input)>,
    guests: BTreeMap<LeaseId, Guest>,
    later: BTreeMap<(Timestamp, u64), (LeaseId, JobId, VmPhase)>,
    asked: BTreeMap<(usize, u64), (usize, u64)>,
    pages: BTreeMap<LeaseId, Page>,
    settled: Vec<Sum>,
    /// What the provider and the tenants keep of leases that are over.
    last: BTreeMap<LeaseId, Receipt>,
    books: Books,
    counter: u64,
}

fn key(n: usize) -> Keypair {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Keypair::from_secret(&secret)
}

impl Month {
    fn new(seed: u64, vms: u32, tenants: usize) -> Self {
        let core = |n: usize| {
            let network = NETWORK.parse().expect("a network");
            NodeCore::new(START, key(n), network, [n as u8; 32], Vec::new()).expect("an empty store")
        };
        let mut month = Month {
            now: START,
            dice: Dice::new(seed),
            cores: (0..=tenants).map(core).collect(),
            mail: VecDeque::new(),
            guests: BTreeMap::new(),
            later: BTreeMap::new(),
            asked: BTreeMap::new(),
            pages: BTreeMap::new(),
            settled: vec![Sum::ZERO; tenants + 1],
            last: BTreeMap::new(),
            books: Books::default(),
            counter: 0,
        };
        month.reprice(vms);
        for tenant in 1..=tenants {
            let (peer, currency) = (month.peer(tenant), "EUR".parse().expect("a currency"));
            month.tell(0, Input::GrantCredit { peer, currency, sum: GRANTED.parse().expect("a sum") });
            let provider = month.peer(0);
            month.tell(tenant, Input::PeerConnected(provider));
            month.tell(0, Input::PeerConnected(peer));
        }
        month
    }
    fn peer(&self, n: usize) -> PeerId {
        self.cores[n].me()
    }
    fn at(&self, peer: PeerId) -> usize {
        self.cores.iter().position(|core| core.me() == peer).expect("a node of this month")
    }

    fn reprice(&mut self, vms: u32) {
        let total = Resources::new(vms, 1024 * u64::from(vms), 10 * u64::from(vms));
        let cents = self.dice.within(1..9);
        let offer = Scenario::offer(total, vms, &format!("0.0{cents}7"));
        let offer = Offer { grace: HOUR, max_lease: Millis::secs(30 * 86_400), prepaid: true, ..offer };
        self.tell(0, Input::Offer(Offering::Vms(Box::new(offer))));
    }

    /// An input and all that follows from it at once.
    fn tell(&mut self, to: usize, input: Input) {
        self.mail.push_back((to, input));
        while let Some((to, input)) = self.mail.pop_front() {
            self.cores[to].handle(self.now, input);
            let effects: Vec<Effect> = self.cores[to].drain_effects().collect();
            effects.into_iter().for_each(|effect| self.effect(to, effect));
        }
    }

    fn effect(&mut self, of: usize, effect: Effect) {
        match effect {
            Effect::Persist(ops) => ops.iter().for_each(|op| match op.table {
                Table::Receipts => self.book(of, op),
                Table::Leases => self.open(op),
                _ => {}
            }),
            Effect::Send { rpc, to, body } => {
                self.counter += 1;
                let (to, from) = (self.at(to), self.peer(of));
                self.asked.insert((to, self.counter), (of, rpc));
                self.mail.push_back((to, Input::Request { token: self.counter, from, site: None, body }));
            }
            Effect::Reply { token, body } => {
                let Some((to, rpc)) = self.asked.remove(&(of, token)) else { return };
                self.mail.push_back((to, Input::Response { rpc, result: Ok(body.to_vec()) }));
            }
            Effect::Publish(body) => {
                let from = self.peer(of);
                for to in (0..self.cores.len()).filter(|to| *to != of) {
                    self.counter += 1;
                    let body = body.to_vec();
                    self.mail.push_back((to, Input::Gossip { id: self.counter, from, body }));
                }
            }
            Effect::RunJob(order) => {
                let phase = match &order.work {
                    Work::Provision(_) => VmPhase::Running,
                    Work::Power { action: PowerAction::Stop { .. }, .. } => VmPhase::Stopped,
                    Work::Power { .. } | Work::Scale(_) => VmPhase::Running,
                    Work::Remove => VmPhase::Gone,
                };
                self.counter += 1;
                let due = self.now + Millis(self.dice.within(1_000..40_000));
                self.later.insert((due, self.counter), (order.lease_id, order.job, phase));
            }
            _ => {}
        }
    }

    /// A lease that is active now.
    fn open(&mut self, op: &StoreOp) {
        let Some(value) = &op.value else { return };
        let row: LeaseRow = protocol::codec::decode(value, protocol::codec::MAX_STORED).expect("a lease");
        if row.stage != LeaseStage::Active || self.pages.contains_key(&row.lease_id) {
            return;
        }
        assert_eq!(row.ends_at, self.now + row.spec.duration);
        let page = Page {
            requestor: self.at(row.requestor),
            prices: vec![(START, row.price.expect("a price"))],
            ends_at: row.ends_at,
            spans: Vec::new(),
            on_since: None,
        };
        self.pages.insert(row.lease_id, page);
    }

    /// A receipt that somebody keeps: looked at by who knows neither's books.
    fn book(&mut self, of: usize, op: &StoreOp) {
        let Some(value) = &op.value else { return };
        let row: ReceiptRow = protocol::codec::decode(value, protocol::codec::MAX_STORED).expect("a receipt");
        let network = NETWORK.parse().expect("a network");
        let verified = row.document(&network).verify().expect("every receipt verifies by itself");
        let receipt = &verified.receipt;
        if of == 0 && row.countersign.is_none() {
            self.books.receipts += 1;
            if receipt.last {
                self.close(receipt);
            }
        }
        if of > 0 {
            let countersign: &Countersign = verified.countersign.as_ref().expect("it keeps what it countersigned");
            assert_eq!(countersign.requestor, self.peer(of));
            self.books.countersigned += 1;
        }
        let bytes = row.receipt.body.len();
        let mut forged = row;
        forged.receipt.body[self.dice.index(bytes)] ^= 1 << self.dice.within(0..8);
        assert!(forged.document(&network).verify().is_err(), "a changed bit is refused");
    }

    fn close(&mut self, receipt: &Receipt) {
        let page = self.pages.get_mut(&receipt.lease_id).expect("a bill for what somebody rented");
        page.stop(self.now);
        let lines = page.lines();
        assert_eq!(receipt.lines, lines, "lease {}: {:?} {:?}", receipt.lease_id, page.prices, page.spans);
        self.settled[page.requestor] = self.settled[page.requestor].plus(receipt.total);
        self.books.seconds += receipt.seconds();
        self.books.total = self.books.total.plus(receipt.total);
        self.books.leases += 1;
        let before = self.last.insert(receipt.lease_id, receipt.clone());
        assert!(before.is_none(), "one last receipt");
    }

    /// Until then, whatever is due at the host and at the provider.
    fn until(&mut self, then: Timestamp) {
        loop {
            let host = self.later.keys().next().map(|(at, _)| *at);
            let node = self.cores[0].next_deadline();
            let next = host.into_iter().chain(node).min().filter(|at| *at <= then);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            match self.later.first_key_value().map(|(at, _)| *at).filter(|(at, _)| *at <= self.now) {
                Some(at) => {
                    let (lease, job, phase) = self.later.remove(&at).expect("it was there");
                    self.host_did(lease, job, phase);
                }
                None => self.tell(0, Input::Tick),
            }
        }
        self.now = then;
    }

    fn host_did(&mut self, lease: LeaseId, job: JobId, phase: VmPhase) {
        if self.cores[0].provider().jobs().running(lease) != Some(job) {
            return;
        }
        match phase {
            VmPhase::Gone => drop(self.guests.remove(&lease)),
            phase => drop(self.guests.insert(lease, Guest { on: phase == VmPhase::Running })),
        }
        let now = self.now;
        self.tell(0, Input::Job { job, report: JobReport::Done(phase) });
        let leased = self.cores[0].provider().ledger().lease(lease).is_some_and(|row| row.ends_at > now);
        let active = leased && self.cores[0].provider().meter_of(lease).is_some();
        if let Some(page) = self.pages.get_mut(&lease).filter(|_| phase == VmPhase::Running && active) {
            page.on_since.get_or_insert(now);
        }
    }

    fn look(&mut self) {
        let state = |guest: &Guest| if guest.on { FoundState::On } else { FoundState::Off };
        let found = self.guests.iter().map(|(id, guest)| Found { lease_id: *id, state: state(guest) }).collect();
        self.tell(0, Input::Inventory(found));
    }

    /// A tenant opens its laptop: it looks after what it has, and does something with a few.
    fn awake(&mut self, tenant: usize, most: usize) {
        self.tell(tenant, Input::Tick);
        let rentals: Vec<(CreateId, Phase, Option<LeaseId>, Option<VmPhase>)> = self.cores[tenant]
            .requestor()
            .rentals()
            .map(|rental| {
                let lease = rental.deal.as_ref().map(|deal| deal.lease_id);
                (rental.create_id, rental.phase, lease, rental.status.as_ref().map(|status| status.vm))
            })
            .collect();
        let mut has = 0;
        for (create_id, phase, lease, vm) in rentals {
            match phase {
                Phase::Failed => {
                    self.counter += 1;
                    self.tell(tenant, Input::Destroy { ticket: self.counter, create_id });
                }
                Phase::Leased => {
                    has += 1;
                    self.tell(tenant, Input::Refresh(create_id));
                    if let Some((lease, vm)) = lease.zip(vm) {
                        self.decide(tenant, create_id, lease, vm);
                    }
                }
                _ => has += 1,
            }
        }
        for _ in has..most {
            self.rent(tenant);
        }
        // A create waits a moment for better quotes.
        for _ in 0..3 {
            let then = self.now + Millis::secs(1);
            self.until(then);
            self.tell(tenant, Input::Tick);
        }
    }

    fn decide(&mut self, tenant: usize, create_id: CreateId, lease: LeaseId, vm: VmPhase) {
        self.counter += 1;
        let ticket = self.counter;
        match self.dice.within(0..200) {
            0 => {
                let now = self.now;
                self.tell(tenant, Input::Destroy { ticket, create_id });
                self.pages.get_mut(&lease).into_iter().for_each(|page| page.stop(now));
            }
            1..=4 if vm == VmPhase::Running => {
                let action = PowerAction::Stop { force: false };
                self.tell(tenant, Input::Power { ticket, create_id, action });
            }
            1..=40 if vm == VmPhase::Stopped => {
                // Until it runs again it is at nobody's service.
                let now = self.now;
                self.pages.get_mut(&lease).into_iter().for_each(|page| page.stop(now));
                self.tell(tenant, Input::Power { ticket, create_id, action: PowerAction::Start });
            }
            5..=7 => self.renew(tenant, create_id, lease),
            _ => {}
        }
    }

    fn renew(&mut self, tenant: usize, create_id: CreateId, lease: LeaseId) {
        let duration = Millis::secs(self.dice.within(1..72) * 1800);
        let most = Some("1".parse().expect("an amount"));
        self.counter += 1;
        self.tell(tenant, Input::Renew { ticket: self.counter, create_id, duration, most });
        let Some(row) = self.cores[0].provider().ledger().lease(lease) else { return };
        let (ends_at, price) = (row.ends_at, row.price.clone().expect("a price"));
        let Some(page) = self.pages.get_mut(&lease).filter(|page| page.ends_at < ends_at) else { return };
        page.prices.push((page.ends_at, price));
        page.ends_at = ends_at;
        self.books.renewals += 1;
    }

    fn rent(&mut self, tenant: usize) {
        self.counter += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.counter.to_le_bytes());
        let duration = Millis::secs(self.dice.within(4..96) * 1800);
        let wish = wish(CreateId(id), &format!("vm-{}", self.counter));
        let spec = VmSpec { duration, ..wish.spec };
        let request = CreateRequest { provider: Some(self.peer(0)), spec, ..wish };
        self.tell(tenant, Input::Create { ticket: self.counter, request: Box::new(request) });
    }

    /// The ledger, the accounts and the receipts, held against one another.
    fn audit(&self) {
        let provider = self.cores[0].provider();
        let euro = "EUR".parse().expect("a currency");
        for tenant in 1..self.cores.len() {
            let peer = self.peer(tenant);
            let theirs = provider.ledger().leases().filter(|row| row.requestor == peer);
            let running = theirs.filter_map(|row| provider.meter_of(row.lease_id)).map(|meter| meter.total());
            let used = running.fold(self.settled[tenant], Sum::plus);
            let granted: Sum = GRANTED.parse().expect("a sum");
            assert_eq!(provider.credit_left(&[peer], &euro), granted.minus(used), "the account of tenant {tenant}");
        }
        // What both sides keep of the leases that are over is the same to the byte, and signed by both.
        for receipts in self.cores[1..].iter().map(|core| core.requestor().receipts()) {
            for row in receipts.iter() {
                let theirs = provider.receipts().of(row.lease_id);
                let same = |other: &&ReceiptRow| other.receipt == row.receipt;
                if let Some(other) = theirs.filter(same) {
                    assert_eq!(other.countersign, row.countersign);
                }
            }
        }
    }
}

/// So many VMs of so many tenants for so many days.
pub fn run(seed: u64, vms: u32, tenants: usize, days: u64) -> Books {
    let mut month = Month::new(seed, vms, tenants);
    let hours = days * 24;
    for hour in 0..hours {
        for _ in 0..HOUR.0 / LOOK.0 {
            let then = month.now + LOOK;
            month.until(then);
            month.look();
        }
        if hour % 24 == 0 {
            month.reprice(vms);
        }
        for tenant in 1..=tenants {
            month.awake(tenant, vms as usize / tenants);
        }
        month.audit();
    }
    // Everything ends.
    for tenant in 1..=tenants {
        let rentals: Vec<CreateId> = month.cores[tenant].requestor().rentals().map(|rental| rental.create_id).collect();
        for create_id in rentals {
            month.counter += 1;
            let ticket = month.counter;
            month.tell(tenant, Input::Destroy { ticket, create_id });
        }
    }
    let end = month.now + HOUR;
    month.until(end);
    for tenant in 1..=tenants {
        month.tell(tenant, Input::Tick);
    }
    month.audit();
    let never_ran = month.pages.values().filter(|page| page.spans.is_empty() && page.on_since.is_none()).count();
    assert_eq!(month.books.leases + never_ran, month.pages.len(), "each lease that ran has its last receipt");
    month.books
}
