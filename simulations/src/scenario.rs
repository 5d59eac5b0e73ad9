//! Building a world, being its users, and running it with the invariants checked after every step.
use crate::host::Temper;
use crate::invariants;
use crate::network::Weather;
use crate::world::{NodeId, World};
use protocol::core::Input;
use protocol::core::provider::{Offer, OfferedImage};
use protocol::core::requestor::{CreateRequest, Phase, Rental};
use protocol::message::{PowerAction, VmPhase};
use protocol::money::Price;
use protocol::names::{Arch, CreateId, Digest, Egress, Isolation, IsolationWanted};
use protocol::seed::Seed;
use protocol::spec::{Query, VmSpec};
use protocol::units::{DiskGib, Millis, Resources};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Set to a seed, it runs that one alone and tells everything that happens.
const REPLAY: &str = "SIM_SEED";
/// Set to a number, so many seeds are tried instead of those that fit a test run.
const SEEDS: &str = "SIM_SEEDS";

/// A small VM of the tiny image, for two hours, from whoever has one.
pub fn wish(create_id: CreateId, name: &str) -> CreateRequest {
    let image: protocol::names::ImageName = "tiny".parse().expect("an image name");
    let seed = Seed {
        hostname: name.parse().expect("a VM's name"),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
        host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nsimulated\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        user_data: None,
    };
    CreateRequest {
        create_id,
        name: seed.hostname.clone(),
        spec: VmSpec {
            resources: Resources::SMALL,
            image: image.clone(),
            isolation: IsolationWanted::Vm,
            arch: None,
            backend: None,
            ports: vec![],
            duration: Millis::secs(7_200),
            or_less: false,
        },
        query: Query { want: Resources::SMALL, image: Some(image), ..Query::default() },
        provider: None,
        seed: seed.encode(),
        timeout: Millis::secs(300),
        identity_file: None,
        allow_smaller: false,
        project: None,
    }
}

/// Runs a scenario under many seeds; the one that fails is named with the command that replays it.
#[allow(clippy::print_stderr, reason = "a failing seed must be named where the test's output goes")]
pub fn explore(test: &str, seeds: u64, run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match (number(REPLAY), number(SEEDS)) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(more)) => 0..more,
        (None, None) => 0..seeds,
    };
    for seed in seeds {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("replay with: {REPLAY}={seed} cargo test -p simulations {test} -- --nocapture");
            resume_unwind(cause);
        }
    }
}

pub struct Scenario {
    pub world: World,
}

impl Scenario {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let mut world = World::new(seed, weather);
        if std::env::var_os(REPLAY).is_some() {
            world.story = Some(Vec::new());
        }
        Scenario { world }
    }

    pub fn offer(total: Resources, max_vms: u32, price: &str) -> Offer {
        let image = OfferedImage {
            digest: Digest::of(b"tiny"),
            user: "root".parse().expect("a user name"),
            least_disk: DiskGib(1),
        };
        Offer {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: "memory".parse().expect("a backend"),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            total,
            overcommit_cpu: Default::default(),
            max_vms,
            minimum: Resources::new(1, 512, 1),
            max_lease: Millis::secs(7 * 86_400),
            strangers: Default::default(),
            unused_stop: None,
            prepaid: false,
            policy: Default::default(),
            slots: Default::default(),
            grace: Millis::secs(120),
            price: Price { per_hour: price.parse().expect("an amount"), currency: "EUR".parse().expect("a currency") },
            images: [("tiny".parse().expect("an image name"), image)].into(),
        }
    }
    /// A provider of so many small VMs.
    pub fn provider(&mut self, vms: u32, price: &str) -> NodeId {
        let small = Resources::SMALL;
        let vms64 = u64::from(vms);
        let total = Resources::new(vms, small.memory_mib.0 * vms64, small.disk_gib.0 * vms64);
        self.world.add_node(Some(Self::offer(total, vms, price)), Temper::good(), 0)
    }
    pub fn requestor(&mut self) -> NodeId {
        self.world.add_node(None, Temper::good(), 0)
    }

    pub fn request(&mut self, name: &str) -> CreateRequest {
        wish(CreateId(self.world.dice.bytes()), name)
    }
    /// A user's command; the answer comes under the ticket.
    pub fn command(&mut self, node: NodeId, input: impl FnOnce(u64) -> Input) -> u64 {
        let ticket = self.world.nodes[node].next_ticket;
        self.world.nodes[node].next_ticket += 1;
        self.world.input(node, input(ticket));
        if self.world.nodes[node].core.is_none() {
            self.world.nodes[node].answers.entry(ticket).or_insert_with(|| Err(protocol::Fault::internal("no node")));
        }
        self.check();
        ticket
    }
    pub fn create_with(&mut self, node: NodeId, request: CreateRequest) -> CreateId {
        let id = request.create_id;
        self.command(node, |ticket| Input::Create { ticket, request: Box::new(request) });
        id
    }
    pub fn create(&mut self, node: NodeId, name: &str) -> CreateId {
        let request = self.request(name);
        self.create_with(node, request)
    }
    pub fn destroy(&mut self, node: NodeId, create_id: CreateId) -> u64 {
        self.command(node, |ticket| Input::Destroy { ticket, create_id })
    }
    pub fn power(&mut self, node: NodeId, create_id: CreateId, action: PowerAction) -> u64 {
        self.command(node, |ticket| Input::Power { ticket, create_id, action })
    }

    pub fn rental(&self, node: NodeId, id: CreateId) -> Option<&Rental> {
        self.world.nodes[node].core.as_ref()?.requestor().rental(id)
    }
    pub fn phase(&self, node: NodeId, id: CreateId) -> Option<Phase> {
        self.rental(node, id).map(|rental| rental.phase)
    }
    pub fn is_running(&self, node: NodeId, id: CreateId) -> bool {
        let status = self.rental(node, id).filter(|rental| rental.phase == Phase::Leased);
        status.and_then(|rental| rental.status.as_ref()).is_some_and(|status| status.vm == VmPhase::Running)
    }
    /// What a create of this user came to at its end.
    pub fn failure(&self, node: NodeId, id: CreateId) -> Option<&protocol::Fault> {
        self.rental(node, id).filter(|rental| rental.phase == Phase::Failed).and_then(|rental| rental.fault.as_ref())
    }

    pub fn check(&mut self) {
        if let Err(why) = invariants::check(&self.world) {
            self.fail(&why);
        }
    }
    pub fn fail(&mut self, why: &str) -> ! {
        panic!("at {} ms, invariant {why}", self.world.now);
    }
    pub fn run_for(&mut self, ms: u64) {
        let until = self.world.now + ms;
        while self.world.step(until) {
            self.check();
        }
    }
    /// Runs until this holds; panics if it does not within so many milliseconds.
    pub fn run_until(&mut self, what: &str, ms: u64, holds: impl Fn(&Scenario) -> bool) {
        let until = self.world.now + ms;
        while !holds(self) {
            if !self.world.step(until) {
                assert!(holds(self), "not within {ms} ms: {what}");
                return;
            }
            self.check();
        }
    }

    /// Everything works and everybody hears everybody, until what is under way has come to its own end.
    pub fn settle(&mut self) {
        self.world.network.weather = Weather::fair();
        for node in 0..self.world.nodes.len() {
            self.world.nodes[node].crash_after = None;
            self.world.nodes[node].host.temper = Temper::good();
            self.world.free(node);
            if self.world.network.is_cut(node) {
                self.world.heal(node);
            }
            self.world.restart_after(node, 0);
        }
        self.run_for(400_000);
    }

    /// Ends everything in an orderly way and looks for what is left. What is stuck shows.
    pub fn wind_up(&mut self) {
        self.settle();
        for node in 0..self.world.nodes.len() {
            let ids: Vec<CreateId> = self.world.nodes[node].rentals().map(|rental| rental.create_id).collect();
            for id in ids {
                let busy = |phase| !matches!(phase, Phase::Leased | Phase::Releasing | Phase::Failed);
                if let Some(phase) = self.phase(node, id).filter(|phase| busy(*phase)) {
                    self.fail(&format!("nothing_is_stuck: create {id} of node {node} is {phase:?}"));
                }
                self.destroy(node, id);
            }
        }
        self.run_for(200_000);
        if let Err(why) = invariants::nothing_leaked(&self.world) {
            self.fail(&why);
        }
    }
}

/// A replay tells its story when it ends, however it ends.
impl Drop for Scenario {
    #[allow(clippy::print_stderr, reason = "whoever replays a seed wants to read what happened")]
    fn drop(&mut self) {
        for line in self.world.story.take().unwrap_or_default() {
            eprintln!("{line}");
        }
    }
}
