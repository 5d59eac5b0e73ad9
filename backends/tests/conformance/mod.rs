//! What every backend must do: each sentence of the documentation of [`backends::Backend`], asked of a real instance.
//!
//! A new backend's test implements [`Subject`], says in [`Claims`] what it can, and calls [`check`]. What is not claimed
//! is asked for all the same: the answer must be `VM_005`.
mod life;
mod orders;
mod races;

use async_trait::async_trait;
use backends::{Backend, Capabilities, Instance, InstanceOrder, PowerState, Stage};
use protocol::names::LeaseId;
use protocol::seed::Seed;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a thing that must come by itself is waited for. An emulated guest on a busy machine takes 20 s to boot.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const STAGES: [Stage; 5] = [Stage::Image, Stage::Disk, Stage::Seed, Stage::Define, Stage::Boot];

/// What a backend says of itself.
pub struct Claims {
    pub kind: &'static str,
    pub capabilities: Capabilities,
    /// There is a guest whose ports can be reached.
    pub endpoint: bool,
    /// A create takes long enough to be met on its way by chance; then it is not tried often.
    pub slow: bool,
    /// What a ready guest has written to its console.
    pub console_says: Option<&'static str>,
}

/// A backend under test, with a host of its own on which nothing else is made.
#[async_trait]
pub trait Subject: Send + Sync {
    fn claims(&self) -> Claims;
    /// The first instance.
    async fn open(&self) -> Arc<dyn Backend>;
    /// Lets go of `old` and opens another instance over the same host, as a node that starts again does.
    async fn reopen(&self, old: Arc<dyn Backend>) -> Arc<dyn Backend>;
    /// An order that can be met, also twice at once.
    fn order(&self, id: LeaseId) -> InstanceOrder;
    /// Orders that fault on the way, each at another stage, and the code that each gets.
    fn bad_orders(&self, id: LeaseId) -> Vec<(InstanceOrder, ErrorCode)>;
    /// Makes the next create fault at this stage; false where nothing does.
    fn fault_next(&self, _stage: Stage) -> bool {
        false
    }
    /// Takes a whole VM apart in one of several ways, as a crash in its making would have left it. False when there
    /// are no more ways.
    async fn halve(&self, backend: &dyn Backend, id: LeaseId, way: usize) -> bool;
    /// Waits until the guest obeys. Called for running guests only.
    async fn ready(&self, _backend: &dyn Backend, _id: LeaseId) {}
    /// What is on the host for VMs: files, processes, domains. Nothing when none is there.
    fn left(&self) -> Vec<String>;
}

/// The whole suite.
pub async fn check(subject: &dyn Subject) {
    let case = Case { subject, backend: subject.open().await, claims: subject.claims() };
    case.describes_itself().await;
    case.nothing_is_left("at the start").await;
    timed("unknown", case.an_unknown_vm_is_no_vm()).await;
    timed("orders", case.bad_orders_leave_nothing()).await;
    timed("half-made", case.half_made_ones_are_made_anew()).await;
    timed("power", case.power()).await;
    timed("suspend", case.suspends_as_claimed()).await;
    timed("endpoint", case.is_reached_while_it_runs()).await;
    timed("console", case.shows_the_console_as_claimed()).await;
    timed("polite stop", case.obeys_a_polite_stop()).await;
    timed("several at once", case.several_at_once()).await;
    timed("one twice at once", case.one_twice_at_once()).await;
    timed("destroy after create", case.destroy_after_create()).await;
    timed("dropped creates", case.a_dropped_create_is_destroyed()).await;
    let case = timed("found again", case.after_a_restart()).await;
    case.nothing_is_left("at the end").await;
    case.backend.close().await;
}

/// What a slow backend's own test may be cut by.
async fn timed<T>(what: &str, part: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = part.await;
    eprintln!("conformance: {what}: {:.1} s", began.elapsed().as_secs_f32());
    done
}

pub struct Case<'a> {
    subject: &'a dyn Subject,
    backend: Arc<dyn Backend>,
    claims: Claims,
}

/// A seed that any backend takes; the keys open nothing.
pub fn seed() -> Seed {
    Seed {
        hostname: "conformance".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ conformance".into()],
        host_key: String::new(),
        user_data: None,
    }
}

pub fn id(number: u8) -> LeaseId {
    LeaseId([number; 16])
}

#[track_caller]
fn refused<T: Debug>(result: Result<T, Fault>, code: ErrorCode, what: &str) {
    let fault = result.err().unwrap_or_else(|| panic!("{what}: expected {code}, and it was done"));
    assert_eq!(fault.code, code, "{what}: {fault:?}");
    assert!(!fault.message.is_empty(), "{what}");
}

#[track_caller]
fn done<T>(result: Result<T, Fault>, what: &str) -> T {
    result.unwrap_or_else(|fault| panic!("{what}: {fault:?}"))
}

impl Case<'_> {
    async fn create(&self, id: LeaseId) -> Instance {
        let order = self.subject.order(id);
        done(self.backend.create(&order, &()).await, "create");
        self.is_whole(&order).await
    }

    /// Runs, as it was ordered.
    async fn is_whole(&self, order: &InstanceOrder) -> Instance {
        let there = self.there(order.id).await;
        assert_eq!(there.state, PowerState::Running, "a VM that was made runs");
        assert_eq!((there.resources, &there.image), (order.resources, &order.image), "as it was ordered");
        assert_eq!(there.isolation, self.claims.capabilities.isolation, "isolated as claimed");
        there
    }

    /// `get` and `list` say the same.
    async fn there(&self, id: LeaseId) -> Instance {
        let got = done(self.backend.get(id).await, "get").unwrap_or_else(|| panic!("{id} is not there"));
        let listed = done(self.backend.list().await, "list");
        let listed: Vec<_> = listed.into_iter().filter(|instance| instance.id == id).collect();
        assert_eq!(listed.as_slice(), std::slice::from_ref(&got), "list says what get says");
        got
    }

    async fn must_be(&self, id: LeaseId, state: PowerState, after: &str) {
        assert_eq!(self.there(id).await.state, state, "after {after}");
    }

    async fn destroy(&self, id: LeaseId, after: &str) {
        done(self.backend.destroy(id).await, after);
        self.nothing_is_left(after).await;
    }

    async fn nothing_is_left(&self, after: &str) {
        let listed = done(self.backend.list().await, "list");
        assert!(listed.is_empty(), "{after}: {listed:?}");
        let left = self.subject.left();
        assert!(left.is_empty(), "{after}: {left:#?}");
    }

    async fn describes_itself(&self) {
        let (backend, claims) = (&self.backend, &self.claims);
        assert_eq!(backend.kind().to_string(), claims.kind);
        assert_eq!(backend.capabilities().await, claims.capabilities);
        let host = done(backend.host().await, "host");
        assert_eq!(host.arch, claims.capabilities.arch);
        assert!(host.cpus > 0 && host.memory_mib.0 > 0 && host.disk_gib.0 > 0, "{host:?}");
        assert!(host.memory_mib_free <= host.memory_mib && host.disk_gib_free <= host.disk_gib, "{host:?}");
        let checks = backend.check().await;
        assert!(!checks.is_empty(), "doctor has nothing to say");
        for check in checks {
            assert!(check.ok && !check.name.is_empty() && !check.detail.is_empty(), "{check:?}");
        }
    }

    async fn an_unknown_vm_is_no_vm(&self) {
        let (backend, id, unknown) = (&self.backend, id(0x01), ErrorCode::NoSuchVm);
        let capabilities = &self.claims.capabilities;
        assert_eq!(done(backend.get(id).await, "get"), None);
        refused(backend.start(id).await, unknown, "start");
        refused(backend.stop(id, false).await, unknown, "stop");
        refused(backend.stop(id, true).await, unknown, "stop by force");
        refused(backend.restart(id).await, unknown, "restart");
        refused(backend.endpoint(id, 22).await, unknown, "endpoint");
        // What it never can may be said before it is known for whom.
        let answers = [
            (capabilities.suspend, backend.suspend(id).await, "suspend"),
            (capabilities.suspend, backend.resume(id).await, "resume"),
            (capabilities.console, backend.console_tail(id, 100).await.map(drop), "console_tail"),
        ];
        for (claimed, answer, what) in answers {
            let cannot = answer.as_ref().is_err_and(|fault| fault.code == ErrorCode::BackendCannot);
            if claimed || !cannot {
                refused(answer, unknown, what);
            }
        }
        self.destroy(id, "destroying what is not there").await;
    }

    /// Until `what` gives something.
    async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The smallest VM that is of use.
pub fn small() -> Resources {
    Resources::new(1, 256, 1)
}
