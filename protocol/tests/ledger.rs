//! The provider against a small model of it, written from the protocol's words and not from its code.
use proptest::prelude::*;
use protocol::core::provider::{Offer, OfferedImage, Offering};
use protocol::core::{Effect, Input, NodeCore, StoreOp, Table, VmReport};
use protocol::envelope::{Sealed, Signed};
use protocol::lease::{Accept, Confirm, Grant, Quote};
use protocol::message::{ConfirmReq, Frame, QuoteReq, Request, Response, VmPhase};
use protocol::money::Price;
use protocol::names::{Arch, CreateId, Digest, Egress, Isolation, IsolationWanted, LeaseId, QuoteId};
use protocol::refusal::Refusal;
use protocol::seed::Seed;
use protocol::spec::VmSpec;
use protocol::units::{DiskGib, Millis, Resources, Timestamp};
use protocol::{Fault, Keypair};
use std::collections::BTreeMap;

const TENANTS: u8 = 3;
const CREATES: u8 = 3;
/// What there is to let: small VMs count one unit, the others two.
const UNITS: u32 = 4;
const SLOTS: u32 = 3;
const DURATION: u64 = 3_600_000;
const GRACE: u64 = 60_000;
const HOLD: u64 = 30_000;
const KEPT: u64 = 24 * 3_600_000;

/// Who, and which of their VMs.
type Which = (u8, u8);

#[derive(Clone, Copy, Debug)]
enum Op {
    Quote(Which, bool),
    Decline(Which),
    Accept(Which),
    Confirm(Which),
    Release(Which),
    Report(Which, Said),
    Wait(u64),
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Running,
    Failed,
    Gone,
}

fn op() -> impl Strategy<Value = Op> {
    let which = || (0..TENANTS, 0..CREATES);
    let said = prop_oneof![Just(Said::Running), Just(Said::Failed), Just(Said::Gone)];
    prop_oneof![
        6 => (which(), any::<bool>()).prop_map(|(which, large)| Op::Quote(which, large)),
        1 => which().prop_map(Op::Decline),
        6 => which().prop_map(Op::Accept),
        6 => which().prop_map(Op::Confirm),
        3 => which().prop_map(Op::Release),
        6 => (which(), said).prop_map(|(which, said)| Op::Report(which, said)),
        4 => (1u64..40_000).prop_map(Op::Wait),
        1 => prop::sample::select(vec![DURATION, 2 * DURATION, KEPT]).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Granted { until: u64 },
    Active { ends: u64, ran: bool },
    Expired { until: u64, ran: bool },
    Ending,
    Gone { since: u64 },
}

/// What the protocol says of one provider.
#[derive(Default)]
struct Model {
    now: u64,
    holds: BTreeMap<Which, (QuoteId, u64, u32)>,
    leases: BTreeMap<Which, (Stage, u32)>,
    buried: BTreeMap<Which, u64>,
}

impl Model {
    fn taken(&self) -> (u32, u32) {
        let holds = self.holds.values().map(|(_, _, units)| *units);
        let leases =
            self.leases.values().filter(|(stage, _)| !matches!(stage, Stage::Gone { .. })).map(|(_, units)| *units);
        let all: Vec<u32> = holds.chain(leases).collect();
        (all.iter().sum(), all.len() as u32)
    }
    fn wait(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        self.holds.retain(|_, (_, until, _)| *until > now);
        self.buried.retain(|_, until| *until > now);
        for (stage, _) in self.leases.values_mut() {
            if let Stage::Active { ends, ran } = *stage
                && ends <= now
            {
                *stage = Stage::Expired { until: ends + GRACE, ran };
            }
            if matches!(*stage, Stage::Expired { until, .. } if until <= now) {
                *stage = Stage::Ending;
            }
        }
        self.leases.retain(|_, (stage, _)| match stage {
            Stage::Granted { until } => *until > now,
            Stage::Gone { since } => *since + KEPT > now,
            _ => true,
        });
    }
    fn end(&mut self, which: Which) {
        if let Some((stage, _)) = self.leases.get_mut(&which) {
            *stage = match *stage {
                Stage::Granted { .. } => Stage::Gone { since: self.now },
                Stage::Active { .. } | Stage::Expired { .. } => Stage::Ending,
                over => over,
            };
        }
    }
    fn report(&mut self, which: Which, said: Said) {
        let now = self.now;
        let Some((stage, _)) = self.leases.get_mut(&which) else { return };
        *stage = match (*stage, said) {
            (Stage::Ending, Said::Gone) => Stage::Gone { since: now },
            (Stage::Active { ends, .. }, Said::Running) => Stage::Active { ends, ran: true },
            (Stage::Expired { until, .. }, Said::Running) => Stage::Expired { until, ran: true },
            (Stage::Active { ran: false, .. } | Stage::Expired { ran: false, .. }, Said::Failed | Said::Gone) => {
                Stage::Ending
            }
            (same, _) => same,
        };
    }
}

fn key(n: u8) -> Keypair {
    Keypair::from_secret(&[n + 1; 32])
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
fn resources(units: u32) -> Resources {
    Resources::new(units, 1024 * u64::from(units), 10 * u64::from(units))
}
fn create_id((tenant, create): Which) -> CreateId {
    CreateId([tenant * 16 + create; 16])
}
fn offer() -> Offer {
    let image = OfferedImage { digest: Digest([1; 32]), user: "root".parse().unwrap(), least_disk: DiskGib(1) };
    Offer {
        name: None,
        country: None,
        arch: Arch::X86_64,
        backend: "memory".parse().unwrap(),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        total: resources(UNITS),
        max_vms: SLOTS,
        minimum: resources(1),
        max_lease: Millis(DURATION),
        policy: Default::default(),
        grace: Millis(GRACE),
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: [("tiny".parse().unwrap(), image)].into(),
    }
}

/// The real one, with what its tenants were told.
struct Real {
    core: NodeCore,
    now: Timestamp,
    disk: BTreeMap<(Table, Vec<u8>), StoreOp>,
    token: u64,
    quotes: BTreeMap<Which, Sealed<Quote>>,
    accepts: BTreeMap<QuoteId, Signed>,
    grants: BTreeMap<Which, Sealed<Grant>>,
}

const PROVIDER: u8 = 200;

impl Real {
    fn new() -> Self {
        let now = Timestamp(1_700_000_000_000);
        let core = NodeCore::new(now, key(PROVIDER), "main".parse().unwrap(), [1; 32], vec![]).unwrap();
        let (disk, quotes, accepts, grants) = Default::default();
        let mut real = Real { core, now, disk, token: 0, quotes, accepts, grants };
        real.input(Input::Offer(Offering::Vms(Box::new(offer()))));
        real
    }
    fn lease_id(which: Which) -> LeaseId {
        LeaseId::derive(key(PROVIDER).peer_id(), key(which.0).peer_id(), create_id(which))
    }
    fn input(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(self.now, input);
        let mut all = Vec::new();
        loop {
            let effects: Vec<Effect> = self.core.drain_effects().collect();
            for effect in &effects {
                let Effect::Persist(ops) = effect else { continue };
                for op in ops {
                    let key = (op.table, op.key.clone());
                    match op.value {
                        Some(_) => self.disk.insert(key, op.clone()),
                        None => self.disk.remove(&key),
                    };
                }
            }
            all.extend(effects);
            // As a node does: until nothing is due.
            if self.core.next_deadline().is_none_or(|at| at > self.now) {
                return all;
            }
            self.core.handle(self.now, Input::Tick);
        }
    }
    fn ask(&mut self, from: u8, request: Request) -> Response {
        self.token += 1;
        let (token, body) = (self.token, Frame::encode(self.now, request));
        let effects = self.input(Input::Request { token, from: key(from).peer_id(), block: None, body });
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { token: of, body } if of == token => Some(body),
            _ => None,
        });
        Frame::<Response>::decode(&reply.expect("every request is answered")).unwrap().body
    }
    fn restart(&mut self) {
        let stored = self.disk.values().cloned().collect();
        self.token += 1;
        let mut chance = [2; 32];
        chance[..8].copy_from_slice(&self.token.to_be_bytes());
        self.core = NodeCore::new(self.now, key(PROVIDER), "main".parse().unwrap(), chance, stored).unwrap();
        self.input(Input::Offer(Offering::Vms(Box::new(offer()))));
    }

    fn request(&mut self, op: Op) -> Option<(u8, Request)> {
        let request = match op {
            Op::Quote(which, large) => {
                let spec = VmSpec {
                    resources: resources(if large { 2 } else { 1 }),
                    image: "tiny".parse().unwrap(),
                    isolation: IsolationWanted::Vm,
                    arch: None,
                    backend: None,
                    ports: vec![],
                    duration: Millis(DURATION),
                };
                (which.0, Request::Quote(QuoteReq { create_id: create_id(which), spec }))
            }
            Op::Decline(which) => (which.0, Request::Decline(self.quotes.get(&which)?.quote_id)),
            Op::Accept(which) => {
                let quote = self.quotes.get(&which)?;
                let accept = Accept {
                    network: "main".parse().unwrap(),
                    provider: quote.provider,
                    requestor: key(which.0).peer_id(),
                    quote_hash: quote.digest(),
                    create_id: create_id(which),
                    seed_hash: Digest::of(&seed()),
                    nonce: 1,
                    expires: self.now + Millis(HOLD),
                };
                // Said again, it is said in the same words.
                let signed = self
                    .accepts
                    .entry(quote.quote_id)
                    .or_insert_with(|| Sealed::seal(accept, &key(which.0)).signed().clone());
                (which.0, Request::Accept(signed.clone()))
            }
            Op::Confirm(which) => {
                let grant = self.grants.get(&which)?;
                let confirm = Confirm {
                    network: "main".parse().unwrap(),
                    provider: grant.provider,
                    requestor: key(which.0).peer_id(),
                    lease_id: grant.lease_id,
                    grant_hash: grant.digest(),
                    expires: self.now + Millis(HOLD),
                };
                let confirm = Sealed::seal(confirm, &key(which.0)).signed().clone();
                (which.0, Request::Confirm(ConfirmReq { confirm, seed: seed() }))
            }
            Op::Release(which) => (which.0, Request::Release(Real::lease_id(which))),
            Op::Report(..) | Op::Wait(_) | Op::Restart => return None,
        };
        Some(request)
    }
}

/// One step of both. The request is sent again at once: that must change nothing.
fn step(model: &mut Model, real: &mut Real, op: Op) -> Result<(), TestCaseError> {
    match op {
        Op::Wait(ms) => {
            model.wait(ms);
            real.now = real.now + Millis(ms);
            real.input(Input::Tick);
        }
        Op::Restart => {
            model.holds.clear();
            model.buried.clear();
            real.restart();
        }
        Op::Report(which, said) => {
            model.report(which, said);
            let report = match said {
                Said::Running => VmReport::Phase(VmPhase::Running),
                Said::Failed => VmReport::Failed(Fault::internal("it failed")),
                Said::Gone => VmReport::Phase(VmPhase::Gone),
            };
            real.input(Input::Vm { lease_id: Real::lease_id(which), report });
        }
        _ => {
            let Some((from, request)) = real.request(op) else { return Ok(()) };
            let answer = real.ask(from, request.clone());
            expect(model, real, op, &answer)?;
            let taken = real.core.provider().ledger().taken();
            let again = real.ask(from, request);
            let buried = matches!(answer, Response::Refused(Refusal::NoSuchLease(_))) && matches!(op, Op::Release(_));
            if !buried {
                prop_assert_eq!(&again, &answer, "{:?} said again", op);
            }
            prop_assert_eq!(real.core.provider().ledger().taken(), taken, "{:?} said again", op);
        }
    }
    let ledger = real.core.provider().ledger();
    let (units, slots) = model.taken();
    prop_assert_eq!(ledger.taken(), resources(units), "after {:?}", op);
    prop_assert!(units <= UNITS, "oversold after {:?}", op);
    prop_assert!(slots <= SLOTS, "more than max_vms after {:?}", op);
    prop_assert_eq!((ledger.vms() + ledger.holds().count()) as u32, slots);
    Ok(())
}

/// What the answer must be, by the model, which then takes the step itself.
fn expect(model: &mut Model, real: &mut Real, op: Op, answer: &Response) -> Result<(), TestCaseError> {
    let network = "main".parse().unwrap();
    let now = model.now;
    match (op, answer) {
        (Op::Quote(which, large), answer) => {
            let units = if large { 2 } else { 1 };
            let stands =
                model.holds.get(&which).is_some_and(|(_, until, held)| *until > now + 20_000 && *held == units);
            if !stands {
                model.holds.remove(&which);
            }
            let (taken, slots) = model.taken();
            match answer {
                Response::Quote(signed) => {
                    let quote: Sealed<Quote> = signed.clone().open(&network).unwrap();
                    if stands {
                        prop_assert_eq!(quote.quote_id, model.holds[&which].0);
                    } else {
                        prop_assert!(taken + units <= UNITS && slots < SLOTS, "quoted what there is not");
                        model.holds.insert(which, (quote.quote_id, now + HOLD, units));
                    }
                    real.quotes.insert(which, quote);
                }
                Response::Refused(Refusal::Exhausted { .. }) => prop_assert!(!stands && taken + units > UNITS),
                Response::Refused(Refusal::TooManyVms { .. }) => prop_assert!(!stands && slots == SLOTS),
                other => prop_assert!(false, "a quote was answered with {other:?}"),
            }
        }
        (Op::Decline(which), Response::Declined) => {
            let declined = real.quotes[&which].quote_id;
            model.holds.retain(|of, (id, ..)| *of != which || *id != declined);
        }
        (Op::Accept(which), Response::Granted(signed)) => {
            let grant: Sealed<Grant> = signed.clone().open(&network).unwrap();
            match model.leases.get(&which) {
                Some((stage, _)) => {
                    prop_assert!(!matches!(stage, Stage::Ending | Stage::Gone { .. }), "granted what has ended");
                    prop_assert_eq!(real.grants[&which].digest(), grant.digest(), "granted in other words");
                }
                None => {
                    let held = model.holds.remove(&which);
                    let (id, _, units) = held.ok_or_else(|| TestCaseError::fail("granted what was not held"))?;
                    prop_assert_eq!(id, real.quotes[&which].quote_id);
                    prop_assert!(!model.buried.contains_key(&which), "granted what was released");
                    model.leases.insert(which, (Stage::Granted { until: now + HOLD }, units));
                }
            }
            real.grants.insert(which, grant);
        }
        (Op::Accept(which), Response::Refused(refusal)) => {
            let quote = real.quotes[&which].quote_id;
            let standing = model.holds.get(&which).is_some_and(|(id, ..)| *id == quote);
            let free = !model.leases.contains_key(&which) && !model.buried.contains_key(&which);
            prop_assert!(!(standing && free), "a hold was not honoured: {refusal:?}");
        }
        (Op::Confirm(which), Response::Active { status, .. }) => {
            let stage = model.leases.get_mut(&which).ok_or_else(|| TestCaseError::fail("confirmed out of nothing"))?;
            prop_assert_eq!(status.lease_id, Real::lease_id(which));
            prop_assert!(!matches!(stage.0, Stage::Ending | Stage::Gone { .. }), "confirmed what has ended");
            if matches!(stage.0, Stage::Granted { .. }) {
                stage.0 = Stage::Active { ends: now + DURATION, ran: false };
            }
        }
        (Op::Confirm(which), Response::Refused(refusal)) => {
            let standing = matches!(model.leases.get(&which), Some((Stage::Granted { .. } | Stage::Active { .. }, _)));
            // Its grant may be an earlier one, of a lease that lapsed.
            prop_assert!(!standing || *refusal == Refusal::Conflict, "a grant was not honoured: {refusal:?}");
        }
        (Op::Release(which), Response::Status(_)) => {
            prop_assert!(model.leases.contains_key(&which));
            model.end(which);
        }
        (Op::Release(which), Response::Refused(Refusal::NoSuchLease(_))) => {
            prop_assert!(!model.leases.contains_key(&which) && !model.buried.contains_key(&which));
            model.buried.insert(which, now + 150_000);
            model.holds.remove(&which);
        }
        (Op::Release(which), Response::Refused(Refusal::Released(_))) => {
            prop_assert!(model.buried.contains_key(&which));
        }
        (op, other) => prop_assert!(false, "{op:?} was answered with {other:?}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_ever_sold_twice(ops in prop::collection::vec(op(), 1..60)) {
        let (mut model, mut real) = (Model::default(), Real::new());
        for op in ops {
            step(&mut model, &mut real, op)?;
        }
        // In the end everything comes back.
        for which in (0..TENANTS).flat_map(|tenant| (0..CREATES).map(move |create| (tenant, create))) {
            step(&mut model, &mut real, Op::Release(which))?;
            step(&mut model, &mut real, Op::Report(which, Said::Gone))?;
        }
        step(&mut model, &mut real, Op::Wait(HOLD))?;
        prop_assert_eq!(real.core.provider().ledger().free(), resources(UNITS));
        step(&mut model, &mut real, Op::Wait(KEPT))?;
        prop_assert!(real.disk.is_empty(), "and nothing is kept for ever");
        prop_assert!(real.core.provider().ledger().next_lapse().is_none());
    }
}
