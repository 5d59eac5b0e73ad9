//! `kill -9` of a provider at a chosen point: before or after one thing that it writes, says or does to its hypervisor.
//! What is left when everything has come to rest is judged by two lists only: the hypervisor's, and the tenants' own.
use crate::host::{Step, Temper};
use crate::network::Weather;
use crate::room::WAITS;
use crate::scenario::Scenario;
use crate::world::NodeId;
use protocol::codec::{self, MAX_STORED};
use protocol::core::requestor::Phase;
use protocol::core::{Effect, StoreOp, Table, Work};
use protocol::job::{FoundState, JobRow};
use protocol::ledger::LeaseRow;
use protocol::message::{LeaseStage, PowerAction, ProvisionStep};
use protocol::names::{CreateId, LeaseId};
use protocol::units::{Millis, Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Something that a provider does.
pub type Point = (&'static str, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    Before,
    After,
}

/// Where a node dies next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// At this point, or wherever it is then.
    pub point: Option<Point>,
    /// After so many others of that kind.
    pub skip: u32,
    pub when: When,
}

/// Another size than all have at first.
const LARGER: Resources = Resources::new(2, 2048, 20);

/// How often it died where.
pub type Hits = BTreeMap<(Point, When), u64>;

/// What is worth dying at; none where nothing of the provider's is in it.
pub fn point_of(effect: &Effect) -> Option<Point> {
    Some(match effect {
        Effect::Persist(ops) => journal(ops)?,
        Effect::Reply { .. } => ("say", "an answer"),
        Effect::Publish(_) => ("say", "an advert"),
        Effect::AbortJob(_) => ("begin", "an abort"),
        Effect::RunJob(order) => match order.work {
            Work::Provision(_) => ("begin", "provision"),
            Work::Power { .. } | Work::Scale(_) => ("begin", "a switch"),
            Work::Remove => ("begin", "removal"),
        },
        _ => return None,
    })
}

fn journal(ops: &[StoreOp]) -> Option<Point> {
    let read = |op: &StoreOp| {
        let value = op.value.as_deref();
        match (op.table, value) {
            (Table::Leases, Some(value)) => {
                let row: LeaseRow = codec::decode(value, MAX_STORED).ok()?;
                let stage = match row.stage {
                    LeaseStage::Provisional => "journal: provisional",
                    LeaseStage::Active => "journal: active",
                    LeaseStage::Expired => "journal: expired",
                    LeaseStage::Ended => "journal: ended",
                };
                Some((stage, row.vm.word()))
            }
            (Table::Leases, None) => Some(("journal: forgotten", "a lease")),
            (Table::Jobs, Some(value)) => {
                let row: JobRow = codec::decode(value, MAX_STORED).ok()?;
                Some(("journal: a job", row.state.word()))
            }
            _ => None,
        }
    };
    let points: Vec<Point> = ops.iter().filter_map(read).collect();
    let of_lease = points.iter().find(|(what, _)| *what != "journal: a job");
    of_lease.or(points.first()).copied()
}

pub fn point_of_step(step: Step) -> Point {
    let what = match step {
        Step::Make(ProvisionStep::Image) => "image",
        Step::Make(ProvisionStep::Disk) => "disk",
        Step::Make(ProvisionStep::Seed) => "seed",
        Step::Make(ProvisionStep::Define) => "define",
        Step::Boot => "boot",
        Step::Ready => "ready",
        Step::Switch(PowerAction::Start) => "start",
        Step::Switch(PowerAction::Stop { .. }) => "stop",
        Step::Switch(PowerAction::Restart) => "restart",
        Step::Switch(PowerAction::Suspend) => "suspend",
        Step::Switch(PowerAction::Resume) => "resume",
        Step::Resize { .. } | Step::Switch(PowerAction::Scale(_)) => "resize",
        Step::Remove => "remove",
    };
    ("hypervisor", what)
}

/// Everything that a lease goes through; a run aims at one of them, and then dies anywhere.
pub const POINTS: [Point; 32] = [
    ("say", "an answer"),
    ("say", "an advert"),
    ("begin", "an abort"),
    ("begin", "provision"),
    ("begin", "a switch"),
    ("begin", "removal"),
    ("journal: provisional", "provisioning"),
    ("journal: active", "provisioning"),
    ("journal: active", "booting"),
    ("journal: active", "running"),
    ("journal: active", "stopping"),
    ("journal: active", "stopped"),
    ("journal: active", "suspended"),
    ("journal: expired", "stopping"),
    ("journal: expired", "stopped"),
    ("journal: ended", "destroying"),
    ("journal: ended", "destroyed"),
    ("journal: a job", "running"),
    WAITS,
    ("hypervisor", "image"),
    ("hypervisor", "disk"),
    ("hypervisor", "seed"),
    ("hypervisor", "define"),
    ("hypervisor", "boot"),
    ("hypervisor", "ready"),
    ("hypervisor", "start"),
    ("hypervisor", "stop"),
    ("hypervisor", "restart"),
    ("hypervisor", "resize"),
    ("hypervisor", "suspend"),
    ("hypervisor", "resume"),
    ("hypervisor", "remove"),
];

/// A provider dies again and again, also while it recovers, and its tenants make, switch and give back VMs meanwhile.
/// The hits, once everything has been judged.
pub fn run(seed: u64) -> Hits {
    let mut scenario = Scenario::new(seed, if seed.is_multiple_of(3) { Weather::foul() } else { Weather::fair() });
    let provider = scenario.provider(2, "0.01");
    let tenants: Vec<NodeId> = (0..2).map(|_| scenario.requestor()).collect();
    let patient = Temper { step: 20..1_500, failures: if seed.is_multiple_of(4) { 10 } else { 0 } };
    scenario.world.nodes[provider].host.temper = patient.clone();
    scenario.run_for(3_000);
    let number = POINTS.len() as u64;
    let when = if (seed / number).is_multiple_of(2) { When::Before } else { When::After };
    let target = POINTS[(seed % number) as usize];
    aim(&mut scenario, provider, Some(target), when);
    let mut names = 0;
    bring_about(&mut scenario, provider, tenants[0], &mut names, target);
    for round in 0..14 {
        act(&mut scenario, &tenants, &mut names);
        scenario.world.free(provider);
        let (full, calm) = (if target == WAITS { 60 } else { 7 }, scenario.world.dice.percent(3));
        if scenario.world.dice.percent(full) {
            scenario.world.fill(provider);
        }
        // Long enough, now and then, for what a death may cost to be little beside what is charged.
        let pause = scenario.world.dice.within(if calm { 120_000..600_000 } else { 200..12_000 });
        scenario.run_for(pause);
        if scenario.world.nodes[provider].core.is_none() {
            let down = scenario.world.dice.within(0..4_000);
            scenario.world.restart_after(provider, down);
            scenario.run_for(down);
            let when = if scenario.world.dice.percent(50) { When::Before } else { When::After };
            let again = (round < 3).then_some(target);
            aim(&mut scenario, provider, again, when);
        }
    }
    scenario.world.nodes[provider].aim = None;
    scenario.settle();
    judge(&mut scenario, provider, &tenants);
    scenario.wind_up();
    // A guest that never answered is on for nothing.
    let all_answer = patient.failures == 0;
    audit(&mut scenario, provider, &tenants, all_answer);
    if !scenario.world.nodes[provider].host.vms.is_empty() {
        scenario.fail("nothing_leaked: everything was given back, and the hypervisor has VMs");
    }
    std::mem::take(&mut scenario.world.hits)
}

fn aim(scenario: &mut Scenario, provider: NodeId, point: Option<Point>, when: When) {
    // Anywhere: often at once, in the midst of the recovery.
    let skip = scenario.world.dice.within(if point.is_some() { 0..2 } else { 0..14 }) as u32;
    scenario.world.nodes[provider].aim = Some(Aim { point, skip, when });
}

/// What leads to some points is rare by chance.
fn bring_about(scenario: &mut Scenario, provider: NodeId, tenant: NodeId, names: &mut u32, target: Point) {
    let id = create(scenario, tenant, names, target.0 == "journal: expired");
    let pause = scenario.world.dice.within(300..4_000);
    match target {
        ("begin", "an abort") => {
            scenario.run_for(pause);
            scenario.destroy(tenant, id);
        }
        ("journal: expired", _) => scenario.run_for(61_000 + pause),
        ("hypervisor", "start" | "stop" | "restart" | "suspend" | "resume" | "resize")
        | ("begin", "a switch")
        | ("journal: active", "stopping" | "stopped" | "suspended") => {
            for action in [
                PowerAction::Stop { force: true },
                PowerAction::Start,
                PowerAction::Restart,
                PowerAction::Scale(LARGER),
                PowerAction::Suspend,
                PowerAction::Resume,
            ] {
                scenario.run_for(8_000 + pause);
                scenario.power(tenant, id, action);
            }
        }
        WAITS => scenario.world.fill(provider),
        _ => {}
    }
}

fn create(scenario: &mut Scenario, tenant: NodeId, names: &mut u32, short: bool) -> CreateId {
    *names += 1;
    let mut request = scenario.request(&format!("vm-{names}"));
    request.spec.duration = Millis::secs(if short { 60 } else { 7_200 });
    request.timeout = Millis::secs(120);
    scenario.create_with(tenant, request)
}

fn act(scenario: &mut Scenario, tenants: &[NodeId], names: &mut u32) {
    let tenant = tenants[scenario.world.dice.index(tenants.len())];
    let ids: Vec<CreateId> = scenario.world.nodes[tenant].rentals().map(|rental| rental.create_id).collect();
    let what = scenario.world.dice.within(0..11);
    if ids.is_empty() || what < 3 {
        // Some expire while they are looked at.
        let short = scenario.world.dice.percent(10);
        create(scenario, tenant, names, short);
        return;
    }
    let id = ids[scenario.world.dice.index(ids.len())];
    match what {
        3 | 4 => {
            scenario.destroy(tenant, id);
        }
        5 | 6 => {
            scenario.power(tenant, id, PowerAction::Stop { force: what == 5 });
        }
        7 => {
            scenario.power(tenant, id, PowerAction::Start);
        }
        8 => {
            scenario.power(tenant, id, PowerAction::Restart);
        }
        9 => {
            let to = if scenario.world.dice.percent(50) { LARGER } else { Resources::SMALL };
            scenario.power(tenant, id, PowerAction::Scale(to));
        }
        _ => {
            let action = if scenario.world.dice.percent(50) { PowerAction::Suspend } else { PowerAction::Resume };
            scenario.power(tenant, id, action);
        }
    }
}

/// No VM lost, none leaked, none doubled: the hypervisor has what the tenants count on, on or off as they were told.
fn judge(scenario: &mut Scenario, provider: NodeId, tenants: &[NodeId]) {
    let mut counted_on: BTreeMap<LeaseId, Option<FoundState>> = BTreeMap::new();
    let mut kept: BTreeSet<LeaseId> = BTreeSet::new();
    for tenant in tenants {
        for rental in scenario.world.nodes[*tenant].rentals() {
            let Some(deal) = rental.deal.as_ref().filter(|_| rental.phase == Phase::Leased) else { continue };
            let status = rental.status.as_ref();
            if status.is_some_and(|status| status.stage == LeaseStage::Expired) {
                kept.insert(deal.lease_id);
                continue;
            }
            let on = match status.map(|status| status.vm.word()) {
                Some("running") => Some(FoundState::On),
                Some("stopped") => Some(FoundState::Off),
                Some("suspended") => Some(FoundState::Suspended),
                _ => None,
            };
            counted_on.insert(deal.lease_id, on);
        }
    }
    let mut why = None;
    let there: BTreeMap<LeaseId, FoundState> =
        scenario.world.nodes[provider].host.vms.iter().map(|(id, vm)| (*id, vm.state())).collect();
    for (id, on) in &counted_on {
        match (on, there.get(id)) {
            (Some(on), Some(is)) if on == is => {}
            // One that failed is its tenant's to start or to give back.
            (None, _) => {}
            (on, is) => why = Some(format!("nothing_lost: lease {id} is on: {on:?}, at the hypervisor: {is:?}")),
        }
    }
    if let Some(id) = there.keys().find(|id| !counted_on.contains_key(id) && !kept.contains(id)) {
        why = Some(format!("nothing_leaked: VM {id} is there, and nobody counts on it"));
    }
    if let Some(id) = kept.iter().find(|id| there.get(id) == Some(&FoundState::On)) {
        why = Some(format!("nothing_leaked: VM {id} runs, and its lease has expired"));
    }
    if let Some(why) = why {
        scenario.fail(&why);
    }
}

/// No second that was not used is charged, and none that was used is given away but for a sample at each death: the
/// tenants' receipts, held against a stopwatch at the hypervisor.
fn audit(scenario: &mut Scenario, provider: NodeId, tenants: &[NodeId], all_answer: bool) {
    let mut charged: BTreeMap<LeaseId, u64> = BTreeMap::new();
    for tenant in tenants {
        let core = scenario.world.nodes[*tenant].core.as_ref();
        for row in core.into_iter().flat_map(|core| core.requestor().receipts().iter()) {
            let document = row.document(&scenario.world.network_name);
            let verified = document.verify().expect("a receipt that was kept verifies by itself");
            charged.insert(row.lease_id, verified.receipt.seconds());
        }
    }
    let watch = &scenario.world.nodes[provider].host.watch;
    let wrong = watch.leases().find_map(|lease| {
        let ((least, most), charged) = (watch.bounds(lease)?, charged.get(&lease).copied().unwrap_or(0));
        let fair = (!all_answer || least <= charged) && charged <= most;
        (!fair).then(|| format!("paid: lease {lease} was charged {charged} s, and {least} to {most} s are right"))
    });
    if let Some(why) = wrong {
        scenario.fail(&why);
    }
}
