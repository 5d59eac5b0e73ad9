//! What a single core does, message by message. Whole runs of several are in the `simulations` crate.
mod currency;
mod depths;
mod jobs;
mod letting;
mod matrix;
mod metering;
mod overload;
mod posting;
mod relief;
mod renting;
mod revoking;
mod scaling;
mod shards;
mod silent;
mod smaller;
mod strangers;
mod unused;

use super::provider::{Offer, OfferedImage, Offering};
use super::requestor::{CreateRequest, Phase};
use super::*;
use crate::board::{Page, Posting};
use crate::codec::{MAX_STORED, decode};
use crate::envelope::{Sealed, Signed};
use crate::job::{Found, FoundState, JobReport};
use crate::lease::{ACCEPT_LIFE, Accept, Active, Confirm, Grant, Quote};
use crate::ledger::{HOLDS_PER_BLOCK, HOLDS_PER_REQUESTOR, LeaseRow, MAX_HOLDS, TOMBSTONES_PER_REQUESTOR};
use crate::message::{ConfirmReq, LeaseStage, LeaseStatus, PowerAction, ProvisionStep, QuoteReq, VmPhase};
use crate::money::Price;
use crate::names::{ActId, Arch, CreateId, Digest, Egress, Isolation, IsolationWanted};
use crate::quota::Tier;
use crate::seed::Seed;
use crate::shard::{Block, Site};
use crate::spec::{Query, VmSpec};
use crate::units::{DiskGib, Resources};
use crate::{ErrorCode, advert};

const START: Timestamp = Timestamp(1_700_000_000_000);

fn key(n: u8) -> Keypair {
    Keypair::from_secret(&[n; 32])
}
fn seed() -> Vec<u8> {
    Seed {
        hostname: "web".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
        host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        user_data: None,
    }
    .encode()
}
fn spec() -> VmSpec {
    VmSpec {
        resources: Resources::SMALL,
        image: "tiny".parse().unwrap(),
        isolation: IsolationWanted::Vm,
        arch: None,
        backend: None,
        ports: vec![],
        duration: Millis::secs(3600),
        or_less: false,
    }
}
fn offer(vms: u32) -> Offer {
    let user = "root".parse().unwrap();
    let image = OfferedImage { digest: Digest([1; 32]), user, least_disk: DiskGib(1) };
    Offer {
        name: None,
        country: None,
        arch: Arch::X86_64,
        backend: "memory".parse().unwrap(),
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
        policy: Default::default(),
        grace: Millis::secs(7 * 86_400),
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: [("tiny".parse().unwrap(), image)].into(),
        slots: Default::default(),
    }
}

/// A core with its clock and its disk.
struct Node {
    core: NodeCore,
    now: Timestamp,
    disk: std::collections::BTreeMap<(Table, Vec<u8>), StoreOp>,
    token: u64,
    /// Where those are who ask.
    site: Option<Site>,
}

impl Node {
    fn new(n: u8) -> Self {
        let core = NodeCore::new(START, key(n), "main".parse().unwrap(), [n; 32], vec![]).unwrap();
        Node { core, now: START, disk: Default::default(), token: 0, site: None }
    }
    fn provider(vms: u32) -> Self {
        let mut node = Node::new(1);
        node.input(Input::Offer(Offering::Vms(Box::new(offer(vms)))));
        node
    }
    fn restart(&mut self) -> Vec<Effect> {
        let stored = self.disk.values().cloned().collect();
        self.core = NodeCore::new(self.now, self.core.key.clone(), "main".parse().unwrap(), [9; 32], stored).unwrap();
        self.effects()
    }
    fn effects(&mut self) -> Vec<Effect> {
        let effects: Vec<Effect> = self.core.drain_effects().collect();
        for op in effects.iter().filter_map(|effect| if let Effect::Persist(ops) = effect { Some(ops) } else { None }) {
            for op in op {
                let key = (op.table, op.key.clone());
                match op.value {
                    Some(_) => self.disk.insert(key, op.clone()),
                    None => self.disk.remove(&key),
                };
            }
        }
        effects
    }
    fn input(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(self.now, input);
        self.effects()
    }
    fn wait(&mut self, time: Millis) -> Vec<Effect> {
        self.now = self.now + time;
        self.input(Input::Tick)
    }
    fn ask_all(&mut self, from: u8, request: Request) -> Vec<Effect> {
        self.token += 1;
        let body = Frame::encode(self.now, request);
        self.input(Input::Request { token: self.token, from: key(from).peer_id(), site: self.site, body })
    }
    fn ask(&mut self, from: u8, request: Request) -> Response {
        let effects = self.ask_all(from, request);
        let reply = effects.iter().find_map(|effect| match effect {
            Effect::Reply { token, body } if *token == self.token => Some(body.clone()),
            _ => None,
        });
        Frame::<Response>::decode(&reply.expect("a reply")).unwrap().body
    }
    fn quote(&mut self, from: u8, create: u8) -> Result<Sealed<Quote>, Refusal> {
        self.quote_of(from, create, spec())
    }
    fn quote_of(&mut self, from: u8, create: u8, spec: VmSpec) -> Result<Sealed<Quote>, Refusal> {
        let request = QuoteReq { create_id: CreateId([create; 16]), spec };
        match self.ask(from, Request::Quote(request)) {
            Response::Quote(signed) => Ok(signed.open(self.core.network()).unwrap()),
            Response::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
    fn accept(&mut self, from: u8, create: u8, quote: &Sealed<Quote>) -> Result<Sealed<Grant>, Refusal> {
        let accept = accept_of(from, create, quote, self.now);
        match self.ask(from, Request::Accept(accept)) {
            Response::Granted(signed) => Ok(signed.open(self.core.network()).unwrap()),
            Response::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
    fn confirm(&mut self, from: u8, grant: &Sealed<Grant>) -> Response {
        self.ask(from, Request::Confirm(confirm_of(from, grant, self.now)))
    }
    fn lease(&mut self, from: u8, create: u8) -> LeaseId {
        let quote = self.quote(from, create).unwrap();
        let grant = self.accept(from, create, &quote).unwrap();
        assert!(matches!(self.confirm(from, &grant), Response::Active { .. }));
        grant.lease_id
    }
    /// Of the job of this VM that runs.
    fn report(&mut self, lease_id: LeaseId, report: JobReport) -> Vec<Effect> {
        let job = self.core.provider().jobs().running(lease_id).expect("a job that runs");
        self.input(Input::Job { job, report })
    }
    fn done(&mut self, lease_id: LeaseId, phase: VmPhase) -> Vec<Effect> {
        self.report(lease_id, JobReport::Done(phase))
    }
    fn fails(&mut self, lease_id: LeaseId, phase: VmPhase, fault: Fault) -> Vec<Effect> {
        self.report(lease_id, JobReport::Failed { phase, fault })
    }
    /// What the hypervisor has, looked at twice.
    fn found(&mut self, there: &[(LeaseId, FoundState)]) -> Vec<Effect> {
        let found: Vec<Found> =
            there.iter().map(|(lease_id, state)| Found { lease_id: *lease_id, state: *state }).collect();
        let mut effects = self.input(Input::Inventory(found.clone()));
        self.now = self.now + Millis::secs(1);
        effects.extend(self.input(Input::Inventory(found)));
        effects
    }
    fn row(&self, id: LeaseId) -> &LeaseRow {
        self.core.provider().ledger().lease(id).expect("a lease")
    }
}

fn accept_of(from: u8, create: u8, quote: &Sealed<Quote>, now: Timestamp) -> Signed {
    let accept = Accept {
        network: "main".parse().unwrap(),
        provider: quote.provider,
        requestor: key(from).peer_id(),
        quote_hash: quote.digest(),
        create_id: CreateId([create; 16]),
        seed_hash: Digest::of(&seed()),
        nonce: 1,
        expires: now + ACCEPT_LIFE,
    };
    Sealed::seal(accept, &key(from)).signed().clone()
}
fn confirm_of(from: u8, grant: &Sealed<Grant>, now: Timestamp) -> ConfirmReq {
    let confirm = Confirm {
        network: "main".parse().unwrap(),
        provider: grant.provider,
        requestor: key(from).peer_id(),
        lease_id: grant.lease_id,
        grant_hash: grant.digest(),
        expires: now + Millis::secs(30),
    };
    ConfirmReq { confirm: Sealed::seal(confirm, &key(from)).signed().clone(), seed: seed() }
}
fn sent(effects: &[Effect]) -> Vec<(u64, PeerId, Request)> {
    let request = |body: &[u8]| Frame::<Request>::decode(body).unwrap().body;
    let sends = effects.iter().filter_map(|effect| match effect {
        Effect::Send { rpc, to, body } => Some((*rpc, *to, request(body))),
        _ => None,
    });
    sends.collect()
}
fn published(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Publish(_))).count()
}

/// The works that these effects begin.
fn begun(effects: &[Effect]) -> Vec<(LeaseId, &Work)> {
    let orders =
        effects.iter().filter_map(|effect| if let Effect::RunJob(order) = effect { Some(order) } else { None });
    orders.map(|order| (order.lease_id, &order.work)).collect()
}
fn removes(effects: &[Effect], id: LeaseId) -> bool {
    begun(effects).iter().any(|(lease_id, work)| *lease_id == id && matches!(work, Work::Remove))
}
fn provisions(effects: &[Effect]) -> usize {
    begun(effects).iter().filter(|(_, work)| matches!(work, Work::Provision(_))).count()
}
fn switches(effects: &[Effect]) -> usize {
    begun(effects).iter().filter(|(_, work)| matches!(work, Work::Power { .. })).count()
}
