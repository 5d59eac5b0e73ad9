use super::*;
use protocol::Keypair;
use protocol::core::provider::{Offer, OfferedImage, Offering};
use protocol::core::{Effect, Input, NodeCore, StoreOp, Table};
use protocol::envelope::Sealed;
use protocol::lease::{ACCEPT_LIFE, Accept, Confirm, Grant, Quote};
use protocol::message::{ConfirmReq, Frame, LeaseStage, QuoteReq, Request, Response};
use protocol::names::{Arch, CreateId, Digest, Egress, Isolation, IsolationWanted};
use protocol::seed::Seed;
use protocol::spec::VmSpec;
use protocol::units::{DiskGib, Resources};
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;
const DAY: i64 = 24 * HOUR as i64;
/// Off by this at most.
const OFF: u64 = 60_000;
/// The true time when a test begins: some day in 2023.
const TRUE: u64 = 1_700_000_000_000;

/// A provider on a host whose clock can be set, and whose true time the test knows.
struct Host {
    truth: u64,
    /// How far the host's clock is off.
    off: i64,
    booted: u64,
    belief: Belief,
    told: i64,
    core: NodeCore,
    disk: BTreeMap<(Table, Vec<u8>), StoreOp>,
    last_run: Timestamp,
}

impl Host {
    fn new() -> Self {
        let booted = TRUE - DAY as u64;
        let belief = Belief::new(Timestamp(TRUE), Duration::from_millis(DAY as u64));
        let core = core(Timestamp(TRUE), vec![]);
        let (disk, last_run) = (BTreeMap::new(), Timestamp(TRUE));
        let mut host = Host { truth: TRUE, off: 0, booted, belief, told: 0, core, disk, last_run };
        host.input(Input::Offer(Offering::Vms(Box::new(offer()))));
        host
    }
    fn wall(&self) -> Timestamp {
        Timestamp(self.truth.saturating_add_signed(self.off))
    }
    fn up(&self) -> Duration {
        Duration::from_millis(self.truth - self.booted)
    }
    /// As the actor does.
    fn input(&mut self, input: Input) -> Option<Response> {
        let now = self.belief.read(self.wall(), self.up());
        let by = self.belief.set_by - std::mem::replace(&mut self.told, self.belief.set_by);
        if by != 0 {
            self.core.handle(now, Input::ClockSet { by });
        }
        self.core.handle(now, input);
        self.last_run = now;
        let mut reply = None;
        for effect in self.core.drain_effects() {
            match effect {
                Effect::Persist(ops) => ops.into_iter().for_each(|op| {
                    let key = (op.table, op.key.clone());
                    match op.value {
                        Some(_) => self.disk.insert(key, op),
                        None => self.disk.remove(&key),
                    };
                }),
                Effect::Reply { body, .. } => reply = Some(Frame::<Response>::decode(&body).unwrap().body),
                _ => {}
            }
        }
        reply
    }
    fn ask(&mut self, request: Request) -> Response {
        let body = Frame::encode(self.wall(), request);
        self.input(Input::Request { token: 1, from: tenant().peer_id(), site: None, body }).unwrap()
    }
    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5_000 {
            self.truth += 5_000;
            self.input(Input::Tick);
        }
    }
    fn set(&mut self, by: i64) {
        self.off += by;
    }
    /// Killed, and started again after so long, with a clock that is off by so much.
    fn restart(&mut self, down: u64, off: i64, rebooted: bool) {
        self.truth += down;
        self.off = off;
        if rebooted {
            self.booted = self.truth - 20_000;
        }
        let (wall, up) = (self.wall(), self.up());
        self.belief = Belief::new(wall, up);
        self.belief.is_after(self.last_run, wall, up);
        self.told = 0;
        let now = self.belief.read(wall, up);
        self.core = core(now, self.disk.values().cloned().collect());
        self.input(Input::Offer(Offering::Vms(Box::new(offer()))));
    }
    /// For an hour, from now on.
    fn lease(&mut self) {
        let (create_id, network) = (CreateId([1; 16]), self.core.network().clone());
        let spec = VmSpec {
            resources: Resources::SMALL,
            image: "tiny".parse().unwrap(),
            isolation: IsolationWanted::Vm,
            arch: None,
            backend: None,
            ports: vec![],
            duration: Millis(HOUR),
            or_less: false,
        };
        let seed = Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
            host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            user_data: None,
        };
        let Response::Quote(quote) = self.ask(Request::Quote(QuoteReq { create_id, spec })) else { panic!("a quote") };
        let quote: Sealed<Quote> = quote.open(&network).unwrap();
        let (provider, requestor) = (quote.provider, tenant().peer_id());
        let accept = Accept {
            network: network.clone(),
            provider,
            requestor,
            quote_hash: quote.digest(),
            create_id,
            seed_hash: Digest::of(&seed.encode()),
            nonce: 1,
            expires: self.wall() + ACCEPT_LIFE,
        };
        let accept = Sealed::seal(accept, &tenant()).signed().clone();
        let Response::Granted(grant) = self.ask(Request::Accept(accept)) else { panic!("a grant") };
        let grant: Sealed<Grant> = grant.open(&network).unwrap();
        let (lease_id, grant_hash, expires) = (grant.lease_id, grant.digest(), self.wall() + ACCEPT_LIFE);
        let confirm = Confirm { network, provider, requestor, lease_id, grant_hash, expires };
        let confirm = Sealed::seal(confirm, &tenant()).signed().clone();
        let active = self.ask(Request::Confirm(ConfirmReq { confirm, seed: seed.encode() }));
        assert!(matches!(active, Response::Active { .. }));
    }
    fn is_let(&self) -> bool {
        self.core.provider().ledger().leases().any(|row| row.stage == LeaseStage::Active)
    }
    /// It ends when it has lasted for so long, and no sooner.
    #[track_caller]
    fn ends_after(&mut self, ms: u64) {
        self.run(ms - OFF);
        assert!(self.is_let(), "it ended too early");
        self.run(2 * OFF);
        assert!(!self.is_let(), "it lasts too long");
    }
}

fn tenant() -> Keypair {
    Keypair::from_secret(&[2; 32])
}
fn core(now: Timestamp, stored: Vec<StoreOp>) -> NodeCore {
    NodeCore::new(now, Keypair::from_secret(&[1; 32]), "main".parse().unwrap(), [1; 32], stored).unwrap()
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
        total: Resources::SMALL,
        overcommit_cpu: Default::default(),
        max_vms: 1,
        minimum: Resources::SMALL,
        max_lease: Millis(HOUR),
        strangers: Default::default(),
        unused_stop: None,
        prepaid: false,
        policy: Default::default(),
        grace: Millis(DAY as u64),
        price: protocol::money::Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: [("tiny".parse().unwrap(), image)].into(),
        slots: Default::default(),
    }
}

#[test]
fn prints_utc_and_survives_any_instant() {
    assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
    assert_eq!(rfc3339(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
}

#[test]
fn a_lease_lasts_as_long_as_it_was_let_for_whatever_the_clock_is_set_to() {
    for by in [DAY, -DAY, 11_000, -11_000] {
        let mut host = Host::new();
        host.lease();
        host.run(HOUR / 4);
        host.set(by);
        host.ends_after(HOUR * 3 / 4);
        // And set right again, on the way.
        let mut host = Host::new();
        host.lease();
        host.run(HOUR / 4);
        host.set(by);
        host.run(HOUR / 4);
        host.set(-by);
        host.ends_after(HOUR / 2);
    }
}

#[test]
fn a_clock_that_was_set_is_remembered_over_a_restart() {
    for by in [DAY, -DAY] {
        let mut host = Host::new();
        host.lease();
        host.run(HOUR / 4);
        host.set(by);
        host.run(HOUR / 4);
        host.restart(HOUR / 4, by, false);
        assert!(!host.belief.doubted);
        host.ends_after(HOUR / 4);
    }
}

#[test]
fn a_boot_in_1970_ends_nothing_early_and_nothing_late_once_the_time_is_known() {
    let mut host = Host::new();
    host.lease();
    host.run(HOUR / 4);
    let down = HOUR / 4;
    host.restart(down, -((TRUE + HOUR) as i64), true);
    assert!(host.belief.doubted && host.wall() < Timestamp(HOUR));
    host.run(HOUR / 8);
    assert!(host.is_let());
    host.set(-host.off);
    host.ends_after(HOUR * 3 / 8);
}

#[test]
fn while_the_time_is_not_known_a_lease_lasts_for_as_long_as_it_had_to_go() {
    let mut host = Host::new();
    host.lease();
    host.run(HOUR / 4);
    host.restart(HOUR, -(TRUE as i64), true);
    host.ends_after(HOUR * 3 / 4);
}

#[test]
fn a_host_that_learns_the_time_after_its_boot_ends_what_is_over() {
    let mut host = Host::new();
    host.lease();
    host.run(HOUR / 4);
    // It goes on from when it was switched off, as hosts without a clock do.
    host.restart(HOUR / 2, -(HOUR as i64) / 2, true);
    assert!(!host.belief.doubted);
    host.run(60_000);
    host.set(-host.off);
    host.ends_after(HOUR / 4 - 60_000);
}

#[test]
fn the_last_run_is_kept_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clock");
    let mut last = LastRun::of(&file);
    assert_eq!(last.kept, Timestamp(0));
    last.keep(Timestamp(TRUE));
    last.keep(Timestamp(TRUE + 1));
    assert_eq!(LastRun::of(&file).kept, Timestamp(TRUE), "once a minute");
    last.keep(Timestamp(TRUE - 86_400_000));
    assert_eq!(LastRun::of(&file).kept, Timestamp(TRUE - 86_400_000));
    std::fs::write(&file, "nonsense").unwrap();
    assert_eq!(LastRun::of(&file).kept, Timestamp(0));
}
