//! Weighted random actions: users, crashes, cuts, clocks and hypervisors, all at once.
use crate::host::Temper;
use crate::network::Weather;
use crate::scenario::Scenario;
use crate::world::NodeId;
use protocol::core::Input;
use protocol::core::provider::Offering;
use protocol::message::PowerAction;
use protocol::names::CreateId;
use protocol::units::{Millis, Resources};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    CreateAgain,
    Destroy,
    Power,
    Crash,
    CrashSoon,
    Restart,
    Cut,
    Heal,
    Clock,
    Weather,
    Temper,
    GuestOff,
    VmVanishes,
    HostBusy,
}

/// Users act most; each disturbance is there often enough to meet every stage of a rental.
const WEIGHTS: [(u32, Action); 15] = [
    (30, Action::Create),
    (5, Action::CreateAgain),
    (15, Action::Destroy),
    (8, Action::Power),
    (4, Action::Crash),
    (12, Action::CrashSoon),
    (20, Action::Restart),
    (5, Action::Cut),
    (10, Action::Heal),
    (4, Action::Clock),
    (3, Action::Weather),
    (3, Action::Temper),
    (2, Action::GuestOff),
    (2, Action::VmVanishes),
    (3, Action::HostBusy),
];

/// What came about in some runs: a simulation in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub leases: usize,
    pub expired: usize,
    pub failovers: usize,
    pub failed_vms: usize,
    pub kills: u64,
    pub steps: u64,
}

impl Tally {
    pub fn add(&mut self, scenario: &Scenario) {
        let nodes = &scenario.world.nodes;
        let events = |what: &str| {
            nodes.iter().flat_map(|node| &node.events).filter(|event| event.message.contains(what)).count()
        };
        self.leases += events("is active");
        self.expired += events("has expired");
        self.failed_vms += events("failed:");
        self.failovers += nodes.iter().map(|node| node.notices.len()).sum::<usize>();
        // Each start and each kill begins an epoch.
        self.kills += nodes.iter().map(|node| node.epoch / 2).sum::<u64>();
        self.steps += scenario.world.steps();
    }
}

/// A few nodes, some of them both provider and requestor, and so many actions; then everything must end well.
pub fn run(seed: u64, actions: u32) -> Scenario {
    let mut scenario = Scenario::new(seed, Weather::foul());
    let dice = &mut scenario.world.dice;
    let (providers, requestors) = (dice.within(1..4), dice.within(1..3));
    for _ in 0..providers {
        let vms = scenario.world.dice.within(1..4) as u32;
        let node = scenario.provider(vms, "0.01");
        // Sometimes it is the number of VMs that runs out first, sometimes a resource.
        let (more, spare) = (scenario.world.dice.within(0..3) as u32, scenario.world.dice.percent(50));
        if let Some(offer) = scenario.world.nodes[node].offer.as_mut() {
            match spare {
                true => offer.total = offer.total.plus(Resources::LARGE),
                false => offer.max_vms += more,
            }
        }
        scenario.world.nodes[node].host.temper = Temper::bad();
    }
    for _ in 0..requestors {
        scenario.requestor();
    }
    for node in 0..scenario.world.nodes.len() {
        let off = scenario.world.dice.within(0..40_000) as i64 - 20_000;
        scenario.world.set_clock(node, off);
    }
    let mut names = 0;
    for _ in 0..actions {
        let pause = scenario.world.dice.within(0..12_000);
        scenario.run_for(pause);
        if let Some(action) = scenario.world.dice.weighted(&WEIGHTS) {
            act(&mut scenario, action, &mut names);
        }
    }
    scenario.wind_up();
    scenario
}

fn act(scenario: &mut Scenario, action: Action, names: &mut u32) {
    let node = scenario.world.dice.index(scenario.world.nodes.len());
    let up = scenario.world.nodes[node].core.is_some();
    match action {
        Action::Create if up => {
            *names += 1;
            let mut request = scenario.request(&format!("vm-{names}"));
            request.timeout = Millis(scenario.world.dice.within(5_000..300_000));
            let durations = [60_000, 600_000, 7_200_000];
            request.spec.duration = Millis(durations[scenario.world.dice.index(durations.len())]);
            scenario.create_with(node, request);
        }
        Action::CreateAgain if up => {
            if let Some(id) = any_rental(scenario, node) {
                create_again(scenario, node, id);
            }
        }
        Action::Destroy if up => {
            if let Some(id) = any_rental(scenario, node) {
                scenario.destroy(node, id);
            }
        }
        Action::Power if up => {
            let actions = [
                PowerAction::Start,
                PowerAction::Stop { force: true },
                PowerAction::Restart,
                PowerAction::Suspend,
                PowerAction::Resume,
                PowerAction::Scale(Resources::MEDIUM),
                PowerAction::Scale(Resources::SMALL),
            ];
            let action = actions[scenario.world.dice.index(actions.len())];
            if let Some(id) = any_rental(scenario, node) {
                scenario.power(node, id, action);
            }
        }
        Action::Crash if up => scenario.world.crash(node),
        Action::CrashSoon if up => {
            let effects = scenario.world.dice.within(0..25) as u32;
            scenario.world.nodes[node].crash_after = Some(effects);
        }
        Action::Restart => {
            for node in 0..scenario.world.nodes.len() {
                let delay = scenario.world.dice.within(0..30_000);
                scenario.world.restart_after(node, delay);
            }
        }
        Action::Cut => scenario.world.cut(node),
        Action::Heal => scenario.world.heal(node),
        Action::Clock => {
            let off = scenario.world.dice.within(0..50_000) as i64 - 25_000;
            scenario.world.set_clock(node, off);
        }
        Action::Weather => {
            let fair = scenario.world.dice.percent(50);
            scenario.world.network.weather = if fair { Weather::fair() } else { Weather::foul() };
        }
        Action::Temper => {
            let good = scenario.world.dice.percent(50);
            scenario.world.nodes[node].host.temper = if good { Temper::good() } else { Temper::bad() };
        }
        Action::GuestOff => {
            if let Some(vm) = scenario.world.nodes[node].host.vms.values_mut().next() {
                (vm.on, vm.suspended) = (false, false);
            }
        }
        Action::VmVanishes => {
            scenario.world.nodes[node].host.vms.pop_first();
        }
        Action::HostBusy if up => {
            let reason = "the host is busy".to_owned();
            scenario.world.input(node, Input::Offer(Offering::Nothing { reason }));
            let pause = scenario.world.dice.within(1..20_000);
            scenario.world.survey_after(node, pause);
        }
        _ => {}
    }
    scenario.check();
}

fn any_rental(scenario: &mut Scenario, node: NodeId) -> Option<CreateId> {
    let ids: Vec<CreateId> = scenario.world.nodes[node].rentals().map(|rental| rental.create_id).collect();
    if ids.is_empty() { None } else { Some(ids[scenario.world.dice.index(ids.len())]) }
}

/// The user runs the same command once more.
fn create_again(scenario: &mut Scenario, node: NodeId, id: CreateId) {
    let Some(rental) = scenario.rental(node, id) else { return };
    let (name, spec) = (rental.name.clone(), rental.spec.clone());
    let mut request = scenario.request(name.as_str());
    request.spec = spec;
    scenario.create_with(node, request);
}
