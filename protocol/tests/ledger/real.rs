//! A real provider with its clock, its disk and what its tenants were told.
use super::model::{Answer, DURATION, GRACE, HOLD, SLOTS, UNITS, Which};
use super::{CREATES, DENIED, STRANGER};
use proptest::prelude::TestCaseError;
use protocol::core::provider::jobs::Slots;
use protocol::core::provider::{Offer, OfferedImage, Offering, Policy};
use protocol::core::{Effect, Input, NodeCore, StoreOp, Table};
use protocol::envelope::{Sealed, Signed};
use protocol::lease::{Accept, Confirm, Grant, Quote};
use protocol::ledger::LeaseRow;
use protocol::message::{ConfirmReq, Frame, QuoteReq, Request, Response};
use protocol::money::Price;
use protocol::names::{Arch, CreateId, Digest, Egress, Isolation, IsolationWanted, LeaseId, Network, QuoteId};
use protocol::seed::Seed;
use protocol::spec::VmSpec;
use protocol::units::{DiskGib, Millis, Resources, Timestamp};
use protocol::{ErrorCode, Keypair};
use std::collections::BTreeMap;

const PROVIDER: u8 = STRANGER + 1;

/// Who takes part, made once: keys cost more than what is done with them here.
pub struct Cast {
    keys: Vec<Keypair>,
    network: Network,
    seed: Vec<u8>,
    leases: BTreeMap<Which, LeaseId>,
}

impl Cast {
    pub fn new() -> Self {
        let keys: Vec<Keypair> = (0..=PROVIDER).map(|n| Keypair::from_secret(&[n + 1; 32])).collect();
        let peer = |n: u8| keys[usize::from(n)].peer_id();
        let all = (0..=STRANGER).flat_map(|tenant| (0..CREATES).map(move |create| (tenant, create)));
        let leases = all.map(|which| (which, LeaseId::derive(peer(PROVIDER), peer(which.0), create_id(which))));
        let leases = leases.collect();
        let seed = Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
            host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            user_data: None,
        };
        Cast { leases, network: "main".parse().unwrap(), seed: seed.encode(), keys }
    }
    pub fn key(&self, n: u8) -> &Keypair {
        &self.keys[usize::from(n)]
    }
    pub fn lease(&self, which: Which) -> LeaseId {
        self.leases[&which]
    }
    fn offer(&self) -> Offering {
        let image = OfferedImage { digest: Digest([1; 32]), user: "root".parse().unwrap(), least_disk: DiskGib(1) };
        Offering::Vms(Box::new(Offer {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: "memory".parse().unwrap(),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            total: resources(UNITS),
            overcommit_cpu: Default::default(),
            max_vms: SLOTS,
            minimum: resources(1),
            max_lease: Millis(DURATION),
            strangers: Default::default(),
            unused_stop: None,
            prepaid: false,
            policy: Policy { deny: [self.key(DENIED).peer_id()].into(), ..Policy::default() },
            grace: Millis(GRACE),
            price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
            images: [("tiny".parse().unwrap(), image)].into(),
            // More than there are VMs: which one waits for whom is another test's affair.
            slots: Slots { provision: 8, control: 16 },
        }))
    }
}

pub fn resources(units: u32) -> Resources {
    Resources::new(units, 1024 * u64::from(units), 10 * u64::from(units))
}
fn create_id((tenant, create): Which) -> CreateId {
    CreateId([tenant * 16 + create; 16])
}

pub struct Real<'a> {
    pub core: NodeCore,
    cast: &'a Cast,
    now: Timestamp,
    pub disk: BTreeMap<(Table, Vec<u8>), StoreOp>,
    token: u64,
    /// What was answered, until it is looked at.
    pub replies: BTreeMap<u64, Response>,
    quotes: BTreeMap<Which, Sealed<Quote>>,
    accepts: BTreeMap<QuoteId, Signed>,
    grants: BTreeMap<Which, Sealed<Grant>>,
    confirms: BTreeMap<Which, Signed>,
}

impl<'a> Real<'a> {
    pub fn new(cast: &'a Cast) -> Self {
        let now = Timestamp(1_700_000_000_000);
        let core = NodeCore::new(now, cast.key(PROVIDER).clone(), cast.network.clone(), [1; 32], vec![]).unwrap();
        let (disk, replies, quotes, accepts, grants, confirms) = Default::default();
        let mut real = Real { core, cast, now, disk, token: 0, replies, quotes, accepts, grants, confirms };
        real.input(Input::Offer(cast.offer()));
        real
    }
    pub fn row(&self, which: Which) -> Option<&LeaseRow> {
        self.core.provider().ledger().lease(self.cast.lease(which))
    }
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now + Millis(ms);
        self.input(Input::Tick);
    }
    pub fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        loop {
            self.perform();
            // As a node does: until nothing is due.
            if self.core.next_deadline().is_none_or(|at| at > self.now) {
                return;
            }
            self.core.handle(self.now, Input::Tick);
        }
    }
    fn perform(&mut self) {
        for effect in self.core.drain_effects() {
            match effect {
                Effect::Persist(ops) => ops.into_iter().for_each(|op| keep(&mut self.disk, op)),
                Effect::Reply { token, body } => {
                    let said = Frame::<Response>::decode(&body).unwrap().body;
                    assert!(self.replies.insert(token, said).is_none(), "answered twice");
                }
                _ => {}
            }
        }
    }
    /// The token under which it will be answered, now or later.
    pub fn ask_later(&mut self, from: u8, request: Request) -> u64 {
        self.token += 1;
        let (token, body) = (self.token, Frame::encode(self.now, request));
        self.input(Input::Request { token, from: self.cast.key(from).peer_id(), site: None, body });
        token
    }
    pub fn ask(&mut self, from: u8, request: Request) -> Response {
        let token = self.ask_later(from, request);
        self.replies.remove(&token).expect("every request is answered")
    }
    pub fn tunnel(&mut self, from: u8, which: Which) -> Answer {
        let peer = self.cast.key(from).peer_id();
        let verdict = self.core.authorise_tunnel(self.now, peer, self.cast.lease(which));
        self.perform();
        verdict.map_or_else(|refusal| Answer::Refused(refusal.code()), |()| Answer::Open)
    }
    /// Dies, and starts with what is on disk.
    pub fn restart(&mut self) {
        let stored = self.disk.values().cloned().collect();
        self.token += 1;
        let mut chance = [2; 32];
        chance[..8].copy_from_slice(&self.token.to_be_bytes());
        let Cast { network, .. } = self.cast;
        let key = self.cast.key(PROVIDER).clone();
        self.core = NodeCore::new(self.now, key, network.clone(), chance, stored).unwrap();
        self.input(Input::Offer(self.cast.offer()));
    }

    /// What was answered, in the model's words. Quotes and grants are kept as their reader does.
    pub fn read(&mut self, which: Which, response: &Response) -> Result<(Answer, Option<QuoteId>), TestCaseError> {
        let network = &self.cast.network;
        let (mut answer, mut quote) = (Answer::Declined, None);
        match response {
            Response::Quote(signed) => {
                let opened: Sealed<Quote> = signed.clone().open(network).unwrap();
                let known = self.quotes.get(&which).map(|known| known.quote_id);
                answer = Answer::Quoted(known.filter(|known| *known == opened.quote_id));
                quote = Some(opened.quote_id);
                self.quotes.insert(which, opened);
            }
            Response::Declined => {}
            Response::Granted(signed) => {
                answer = Answer::Granted;
                self.grants.insert(which, signed.clone().open(network).unwrap());
            }
            Response::Active { status, .. } => answer = Answer::Active(status.stage, status.vm),
            Response::Status(status) => answer = Answer::Status(status.stage, status.vm),
            Response::Refused(refusal) => answer = Answer::Refused(refusal.code()),
            other => return Err(TestCaseError::fail(format!("answered with {other:?}"))),
        }
        Ok((answer, quote))
    }

    pub fn quote_of(&self, which: Which) -> Option<QuoteId> {
        self.quotes.get(&which).map(|quote| quote.quote_id)
    }
    pub fn quote_request(&self, which: Which, units: u32) -> Request {
        let spec = VmSpec {
            resources: resources(units),
            image: "tiny".parse().unwrap(),
            isolation: IsolationWanted::Vm,
            arch: None,
            backend: None,
            ports: vec![],
            duration: Millis(DURATION),
            or_less: false,
        };
        Request::Quote(QuoteReq { create_id: create_id(which), spec })
    }
    /// In the words in which it was said first; also when another peer has got hold of them.
    pub fn accept_request(&mut self, which: Which) -> Option<Request> {
        let (quote, cast) = (self.quotes.get(&which)?, self.cast);
        let accept = Accept {
            network: cast.network.clone(),
            provider: quote.provider,
            requestor: cast.key(which.0).peer_id(),
            quote_hash: quote.digest(),
            create_id: create_id(which),
            seed_hash: Digest::of(&cast.seed),
            nonce: 1,
            expires: self.now + Millis(HOLD),
        };
        let seal = || Sealed::seal(accept, cast.key(which.0)).signed().clone();
        Some(Request::Accept(self.accepts.entry(quote.quote_id).or_insert_with(seal).clone()))
    }
    pub fn confirm_request(&mut self, by: u8, which: Which) -> Option<Request> {
        let (grant, cast) = (self.grants.get(&which)?, self.cast);
        let confirm = Confirm {
            network: cast.network.clone(),
            provider: grant.provider,
            requestor: cast.key(which.0).peer_id(),
            lease_id: grant.lease_id,
            grant_hash: grant.digest(),
            expires: self.now + Millis(HOLD),
        };
        let confirm = if by == which.0 {
            let confirm = Sealed::seal(confirm, cast.key(which.0)).signed().clone();
            self.confirms.insert(which, confirm.clone());
            confirm
        } else {
            self.confirms.get(&which)?.clone()
        };
        Some(Request::Confirm(ConfirmReq { confirm, seed: cast.seed.clone() }))
    }
    /// Refused, whatever there is.
    pub fn is_denied(&mut self, which: Which) -> bool {
        let request = self.quote_request((DENIED, which.1), 1);
        matches!(self.ask(DENIED, request), Response::Refused(refusal) if refusal.code() == ErrorCode::Denied)
    }
}

fn keep(disk: &mut BTreeMap<(Table, Vec<u8>), StoreOp>, op: StoreOp) {
    let key = (op.table, op.key.clone());
    match op.value {
        Some(_) => disk.insert(key, op),
        None => disk.remove(&key),
    };
}
