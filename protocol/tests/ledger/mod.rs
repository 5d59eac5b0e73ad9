//! The provider against a small model of it, written from the protocol's words and not from its code: quotes, leases,
//! switches, tunnels and the hypervisor's reports in any order, asked by the owner, by other tenants, by one who is
//! denied and by a stranger, with deaths and time between them. Every answer is the model's, and so is what is left.
mod model;
mod real;

use model::{Answer, HOLD, KEPT, Model, SLOTS, UNITS, Which};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use protocol::core::{Input, Table};
use protocol::job::{JobKind, JobReport};
use protocol::message::{LeaseStage, PowerAction, Request, Response, VmPhase};
use protocol::names::{ActId, QuoteId};
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use real::{Cast, Real, resources};
use std::cell::RefCell;

const TENANTS: u8 = 2;
const CREATES: u8 = 2;
const DENIED: u8 = TENANTS;
const STRANGER: u8 = TENANTS + 1;
/// How long a watch waits for a change.
const WATCH: u64 = 4_000;
/// Fewer do not reach every state for sure.
const CASES: u32 = 768;
/// Of one peer: beyond it there is an answer at once.
const WATCHES: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Large or small.
    Quote(Which, bool),
    /// Quote, accept and confirm: what is rarely tried in this order by chance.
    Rent(Which, bool),
    QuoteDenied(Which),
    Decline(u8, Which),
    Accept(u8, Which),
    Confirm(u8, Which),
    Release(u8, Which),
    Status(u8, Which),
    /// Of the latest revision, or of an old one.
    Watch(u8, Which, bool),
    Power(u8, Which, PowerAction),
    Tunnel(u8, Which),
    Report(Which, Said),
    Wait(u64),
    Restart,
}

/// What the hypervisor makes of a job.
#[derive(Clone, Copy, Debug)]
enum Said {
    Boots,
    Done,
    /// With a fault that passes, or with one that stays.
    Fails {
        passes: bool,
        /// Whether it knows what it has now.
        knows: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let which = || (0..TENANTS, 0..CREATES);
    // Mostly the owner, sometimes anybody.
    let by = || (0..=STRANGER, which(), 0..4u8).prop_map(|(who, which, n)| (if n == 0 { who } else { which.0 }, which));
    let action = prop::sample::select(vec![
        PowerAction::Start,
        PowerAction::Stop { force: false },
        PowerAction::Stop { force: true },
        PowerAction::Restart,
        PowerAction::Suspend,
        PowerAction::Resume,
        PowerAction::Scale(resources(1)),
        PowerAction::Scale(resources(2)),
        PowerAction::Scale(resources(3)),
    ]);
    let said = prop_oneof![
        2 => Just(Said::Boots),
        4 => Just(Said::Done),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(passes, knows)| Said::Fails { passes, knows }),
    ];
    prop_oneof![
        8 => (which(), any::<bool>()).prop_map(|(which, large)| Op::Quote(which, large)),
        12 => (which(), any::<bool>()).prop_map(|(which, large)| Op::Rent(which, large)),
        1 => which().prop_map(Op::QuoteDenied),
        1 => by().prop_map(|(by, which)| Op::Decline(by, which)),
        8 => by().prop_map(|(by, which)| Op::Accept(by, which)),
        8 => by().prop_map(|(by, which)| Op::Confirm(by, which)),
        3 => by().prop_map(|(by, which)| Op::Release(by, which)),
        2 => by().prop_map(|(by, which)| Op::Status(by, which)),
        3 => (by(), any::<bool>()).prop_map(|((by, which), latest)| Op::Watch(by, which, latest)),
        12 => (by(), action).prop_map(|((by, which), action)| Op::Power(by, which, action)),
        3 => by().prop_map(|(by, which)| Op::Tunnel(by, which)),
        24 => (which(), said).prop_map(|(which, said)| Op::Report(which, said)),
        6 => (1u64..20_000).prop_map(Op::Wait),
        2 => prop::sample::select(vec![model::DURATION, 2 * model::DURATION, KEPT]).prop_map(Op::Wait),
        2 => Just(Op::Restart),
    ]
}

struct Watching {
    token: u64,
    which: Which,
    until: u64,
    seen: Option<(LeaseStage, VmPhase)>,
    revision: u64,
}

/// Both, side by side.
struct Pair<'a> {
    model: Model,
    real: Real<'a>,
    cast: &'a Cast,
    watching: Vec<Watching>,
    acts: u8,
}

/// What was asked, and how it was answered.
#[derive(Default)]
struct Seen(Vec<(&'static str, Answer)>);

impl Seen {
    fn insert(&mut self, seen: (&'static str, Answer)) {
        if !self.0.contains(&seen) {
            self.0.push(seen);
        }
    }
}

impl<'a> Pair<'a> {
    fn new(cast: &'a Cast) -> Self {
        Pair { model: Model::default(), real: Real::new(cast), cast, watching: vec![], acts: 0 }
    }

    /// The request is sent `again` at once: that must change nothing.
    fn step(&mut self, op: Op, again: bool, seen: &mut Seen) -> Result<(), TestCaseError> {
        match op {
            Op::Rent(which, large) => {
                for part in [Op::Quote(which, large), Op::Accept(which.0, which), Op::Confirm(which.0, which)] {
                    self.step(part, again, seen)?;
                }
            }
            Op::Wait(ms) => {
                self.model.wait(ms);
                self.real.wait(ms);
            }
            Op::Restart => {
                self.watching.clear();
                self.model.restart();
                self.real.restart();
            }
            Op::Report(which, said) => self.report(which, said)?,
            Op::Watch(by, which, latest) => self.watch(by, which, latest, seen)?,
            Op::QuoteDenied(which) => prop_assert!(self.real.is_denied(which)),
            Op::Tunnel(by, which) => {
                let expected = self.model.tunnel(by, which);
                prop_assert_eq!(self.real.tunnel(by, which), expected, "{:?}", op);
                seen.insert(("tunnel", expected));
            }
            _ => self.ask(op, again, seen)?,
        }
        self.watchers_have_heard(op)?;
        for lease in self.model.leases.values() {
            seen.insert(("stands", Answer::Status(lease.stage, lease.vm)));
        }
        self.compare(op)
    }

    fn request(&mut self, op: Op) -> Option<(&'static str, u8, Which, Request)> {
        let lease = |which| self.cast.lease(which);
        Some(match op {
            Op::Quote(which, large) => ("quote", which.0, which, self.real.quote_request(which, units(large))),
            Op::Decline(by, which) => ("decline", by, which, Request::Decline(self.real.quote_of(which)?)),
            Op::Accept(by, which) => ("accept", by, which, self.real.accept_request(which)?),
            Op::Confirm(by, which) => ("confirm", by, which, self.real.confirm_request(by, which)?),
            Op::Release(by, which) => ("release", by, which, Request::Release(lease(which))),
            Op::Status(by, which) => ("status", by, which, Request::Status(lease(which))),
            Op::Power(by, which, action) => {
                self.acts = self.acts.wrapping_add(1);
                let act = ActId([self.acts; 16]);
                (action.what(), by, which, Request::Power { lease_id: lease(which), act, action })
            }
            _ => return None,
        })
    }

    fn ask(&mut self, op: Op, again: bool, seen: &mut Seen) -> Result<(), TestCaseError> {
        let Some((what, by, which, request)) = self.request(op) else { return Ok(()) };
        let said = self.real.quote_of(which);
        let response = self.real.ask(by, request.clone());
        let (answer, quote) = self.real.read(which, &response)?;
        let expected = self.expect(op, said);
        prop_assert_eq!(answer, expected, "{:?}", op);
        if let (Op::Quote(which, large), Some(quote)) = (op, quote) {
            self.model.quoted(which, quote, units(large));
        }
        if answer == Answer::Granted {
            self.model.granted(which);
        }
        self.model.settle();
        seen.insert((what, if quote.is_some() { Answer::Quoted(None) } else { answer }));
        if again {
            let repeated = self.real.ask(by, request);
            // A release of what never was is remembered, and said to be one from then on.
            let buried = matches!(op, Op::Release(..)) && matches!(response, Response::Refused(_));
            let same = if buried { self.real.read(which, &repeated)?.0 == answer } else { repeated == response };
            prop_assert!(same, "{op:?} said again: {repeated:?}, and before: {response:?}");
        }
        Ok(())
    }

    /// The model takes the step.
    fn expect(&mut self, op: Op, quote: Option<QuoteId>) -> Answer {
        let model = &mut self.model;
        match (op, quote) {
            (Op::Quote(which, large), _) => model.quote(which, units(large)),
            (Op::Decline(by, which), Some(quote)) => model.decline(by, which, quote),
            (Op::Accept(by, which), Some(quote)) => model.accept(by, which, quote),
            (Op::Confirm(by, which), _) => model.confirm(by, which),
            (Op::Release(by, which), _) => model.release(by, which),
            (Op::Status(by, which), _) => model.status(by, which),
            (Op::Power(by, which, action), _) => model.power(by, which, action),
            (op, _) => panic!("{op:?} is no request"),
        }
    }

    fn report(&mut self, which: Which, said: Said) -> Result<(), TestCaseError> {
        let jobs = self.real.core.provider().jobs();
        let running = jobs.running(self.cast.lease(which)).and_then(|id| jobs.get(id)).map(|job| (job.id, job.kind));
        prop_assert_eq!(running.map(|(_, kind)| kind), self.model.under_way(which), "what is done to {:?}", which);
        let Some((job, kind)) = running else { return Ok(()) };
        let has = self.real.row(which).map(|row| row.spec.resources).unwrap_or_default();
        let report = report_of(kind, said, has);
        self.model.reported(which, &report);
        self.real.input(Input::Job { job, report });
        Ok(())
    }

    fn watch(&mut self, by: u8, which: Which, latest: bool, seen: &mut Seen) -> Result<(), TestCaseError> {
        let expected = self.model.status(by, which);
        let now = self.real.row(which).map(|row| (row.stage, row.vm, row.revision));
        let revision = now.map_or(0, |(.., revision)| revision - u64::from(!latest));
        let token = self.real.ask_later(by, Request::Watch { lease_id: self.cast.lease(which), seen: revision });
        let others = self.watching.iter().filter(|watching| watching.which.0 == by).count();
        if latest && matches!(expected, Answer::Status(..)) && others < WATCHES {
            let (until, seen) = (self.model.now() + WATCH, now.map(|(stage, vm, _)| (stage, vm)));
            self.watching.push(Watching { token, which, until, seen, revision });
            return Ok(());
        }
        let response = self.real.replies.remove(&token).ok_or_else(|| TestCaseError::fail("a watch hangs"))?;
        prop_assert_eq!(self.real.read(which, &response)?.0, expected);
        seen.insert(("watch", expected));
        Ok(())
    }

    /// Whoever watches hears of each change, after a while in any case, and of nothing that is no change.
    fn watchers_have_heard(&mut self, op: Op) -> Result<(), TestCaseError> {
        let mut waiting = vec![];
        for watching in std::mem::take(&mut self.watching) {
            let lease = self.model.leases.get(&watching.which);
            let over = watching.until <= self.model.now();
            let changed = lease.map(|lease| (lease.stage, lease.vm)) != watching.seen;
            match self.real.replies.remove(&watching.token) {
                None => {
                    prop_assert!(!over && !changed, "a watcher heard nothing of {:?}", op);
                    waiting.push(watching);
                }
                Some(Response::Status(status)) => prop_assert!(over || status.revision != watching.revision),
                Some(Response::Refused(refusal)) => {
                    prop_assert!(refusal.code() == ErrorCode::NoSuchVm && lease.is_none());
                }
                Some(other) => prop_assert!(false, "a watcher heard {other:?}"),
            }
        }
        self.watching = waiting;
        prop_assert!(self.real.replies.is_empty(), "nobody asked: {:?}", self.real.replies);
        Ok(())
    }

    /// What is let, and where each VM stands.
    fn compare(&self, op: Op) -> Result<(), TestCaseError> {
        let (ledger, jobs) = (self.real.core.provider().ledger(), self.real.core.provider().jobs());
        let (units, slots) = self.model.taken();
        prop_assert!(units <= UNITS, "oversold after {:?}", op);
        prop_assert!(slots <= SLOTS, "more than max_vms after {:?}", op);
        prop_assert_eq!(ledger.taken(), resources(units), "after {:?}", op);
        prop_assert_eq!((ledger.vms() as u32, ledger.holds().count()), (slots, self.model.holds()), "after {:?}", op);
        prop_assert_eq!(ledger.leases().count(), self.model.leases.len(), "after {:?}", op);
        for (which, lease) in &self.model.leases {
            let row = self.real.row(*which).map(|row| (row.stage, row.vm));
            prop_assert_eq!(row, Some((lease.stage, lease.vm)), "{:?} after {:?}", which, op);
            let of_lease = jobs.active().filter(|job| job.lease_id == self.cast.lease(*which));
            let kinds: Vec<JobKind> = of_lease.map(|job| job.kind).collect();
            prop_assert_eq!(kinds, lease.kinds(), "to be done to {:?} after {:?}", which, op);
        }
        Ok(())
    }

    /// In the end everything comes back.
    fn end(&mut self, seen: &mut Seen) -> Result<(), TestCaseError> {
        let all = || (0..TENANTS).flat_map(|tenant| (0..CREATES).map(move |create| (tenant, create)));
        for which in all() {
            self.step(Op::Release(which.0, which), false, seen)?;
        }
        // A removal that failed is tried again a minute later at the latest.
        self.step(Op::Wait(2 * HOLD), false, seen)?;
        for which in all() {
            self.step(Op::Report(which, Said::Done), false, seen)?;
        }
        prop_assert_eq!(self.real.core.provider().ledger().free(), resources(UNITS));
        self.step(Op::Wait(KEPT), false, seen)?;
        // Receipts are for longer than the leases that they are of; their number has a bound of its own.
        let kept = self.real.disk.keys().find(|(table, _)| *table != Table::Receipts);
        prop_assert_eq!(kept, None, "and nothing is kept for ever");
        prop_assert!(self.real.core.provider().ledger().next_lapse().is_none());
        Ok(())
    }
}

fn units(large: bool) -> u32 {
    if large { 2 } else { 1 }
}

fn report_of(kind: JobKind, said: Said, has: Resources) -> JobReport {
    let stands = match kind {
        JobKind::Remove => VmPhase::Gone,
        JobKind::Power(PowerAction::Stop { .. }) => VmPhase::Stopped,
        JobKind::Provision | JobKind::Power(_) => VmPhase::Running,
    };
    let boots = stands == VmPhase::Running;
    let failed = match kind {
        JobKind::Remove => VmPhase::Destroying,
        JobKind::Power(PowerAction::Stop { force: false }) => VmPhase::Running,
        JobKind::Power(PowerAction::Start) => VmPhase::Stopped,
        JobKind::Provision | JobKind::Power(_) => VmPhase::Failed,
    };
    match said {
        Said::Boots if boots => JobReport::Phase(VmPhase::Booting),
        Said::Boots | Said::Done => JobReport::Done(stands),
        Said::Fails { passes, knows } => {
            let code = if passes { ErrorCode::Unavailable } else { ErrorCode::CreateFailed };
            let fault = Fault::new(code, "the hypervisor says no");
            match kind {
                JobKind::Power(PowerAction::Scale(_)) if knows => {
                    JobReport::NotScaled { phase: VmPhase::Running, fault, has }
                }
                _ => JobReport::Failed { phase: failed, fault },
            }
        }
    }
}

/// `PROPTEST_CASES` says how many; `make ledger-full` has a million.
#[test]
fn every_answer_is_the_models_and_nothing_is_sold_twice() {
    let (cast, seen) = (Cast::new(), RefCell::new(Seen::default()));
    let config = Config::default();
    let mut runner =
        TestRunner::new(Config { cases: config.cases.max(CASES), source_file: Some(file!()), ..config.clone() });
    let steps = prop::collection::vec((op(), prop::bool::weighted(0.2)), 20..40);
    let run = runner.run(&steps, |steps| {
        let mut pair = Pair::new(&cast);
        let seen = &mut *seen.borrow_mut();
        for (op, again) in steps {
            pair.step(op, again, seen)?;
        }
        pair.end(seen)
    });
    if let Err(error) = run {
        panic!("{error}\n{runner}");
    }
    // The model is no use in states that are never reached.
    let seen = seen.into_inner().0;
    let reached = |what: &str, wanted: &dyn Fn(Answer) -> bool| seen.iter().any(|(of, is)| *of == what && wanted(*is));
    for code in [ErrorCode::Unavailable, ErrorCode::Exhausted, ErrorCode::VmExists, ErrorCode::BadToken] {
        assert!(reached("accept", &|is| is == Answer::Refused(code)), "no accept was refused with {code}");
    }
    for code in [ErrorCode::Exhausted, ErrorCode::BackendCannot] {
        assert!(reached("another size", &|is| is == Answer::Refused(code)), "no other size was refused with {code}");
    }
    for what in ["a start", "a stop", "a restart", "another size", "tunnel"] {
        let done = |is| matches!(is, Answer::Status(LeaseStage::Active, _) | Answer::Open);
        assert!(reached(what, &done), "no {what} was done");
        for code in [ErrorCode::WrongState, ErrorCode::NotYours, ErrorCode::NoSuchVm] {
            assert!(reached(what, &|is| is == Answer::Refused(code)), "no {what} was refused with {code}");
        }
    }
    let often = [VmPhase::Booting, VmPhase::Running, VmPhase::Stopping, VmPhase::Stopped];
    let rarely = (config.cases >= 20 * CASES).then_some(VmPhase::Failed);
    for phase in often.into_iter().chain(rarely) {
        assert!(reached("stands", &|is| is == Answer::Status(LeaseStage::Active, phase)), "no VM was {phase:?}");
    }
}
