//! The suite over backends that make no guest.
use crate::conformance::{self, Claims, Subject, id, seed, small};
use async_trait::async_trait;
use backends::memory::{MemoryBackend, MemoryOptions};
use backends::{Backend, Capabilities, InstanceOrder, PowerState, Stage};
use protocol::ErrorCode;
use protocol::names::{Arch, Egress, Isolation, LeaseId};
use protocol::units::Resources;
use std::sync::Arc;
use std::time::Duration;

struct Memory {
    backend: MemoryBackend,
    endpoint: bool,
}

impl Memory {
    /// With a delay a create can be met on its way.
    fn new(delay: Duration, endpoint: bool) -> Self {
        let address = endpoint.then(|| "127.0.0.1:22".parse().unwrap());
        let backend = MemoryBackend::new(MemoryOptions { delay, endpoint: address, ..MemoryOptions::default() });
        Memory { backend, endpoint }
    }
}

#[async_trait]
impl Subject for Memory {
    fn claims(&self) -> Claims {
        Claims {
            kind: "memory",
            capabilities: Capabilities {
                isolation: Isolation::Simulated,
                egress: Egress::None,
                arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
                suspend: true,
                snapshots: false,
                live_scale: false,
                volumes: false,
                user_data: false,
                console: false,
                disk_limit: false,
            },
            endpoint: self.endpoint,
            slow: false,
            console_says: None,
        }
    }
    async fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.backend.clone())
    }
    async fn reopen(&self, _old: Arc<dyn Backend>) -> Arc<dyn Backend> {
        Arc::new(self.backend.clone())
    }
    fn order(&self, id: LeaseId) -> InstanceOrder {
        InstanceOrder {
            id,
            resources: small(),
            image: "tiny".parse().unwrap(),
            image_digest: MemoryOptions::digest_of("tiny"),
            seed: seed(),
            ports: vec![],
            egress: Egress::None,
        }
    }
    fn bad_orders(&self, id: LeaseId) -> Vec<(InstanceOrder, ErrorCode)> {
        let huge = InstanceOrder { resources: Resources::new(1, 1 << 24, 1), ..self.order(id) };
        vec![(huge, ErrorCode::Exhausted)]
    }
    fn fault_next(&self, stage: Stage) -> bool {
        self.backend.tune(|options| (options.fail_creates, options.fail_at) = (1, stage));
        true
    }
    async fn halve(&self, _: &dyn Backend, id: LeaseId, way: usize) -> bool {
        way < 2 && self.backend.set_state(id, PowerState::Failed("half-made".into())).is_ok()
    }
    fn left(&self) -> Vec<String> {
        vec![]
    }
}

#[tokio::test(start_paused = true)]
async fn memory_does_what_every_backend_does() {
    conformance::check(&Memory::new(Duration::ZERO, false)).await;
    conformance::check(&Memory::new(Duration::from_millis(100), true)).await;
}

#[tokio::test]
async fn simulated_hosts_are_full_at_some_point() {
    let memory = Memory::new(Duration::ZERO, false);
    let backend = memory.open().await;
    memory.backend.tune(|options| options.host = small());
    backend.create(&memory.order(id(1)), &()).await.unwrap();
    assert_eq!(backend.create(&memory.order(id(2)), &()).await.unwrap_err().code, ErrorCode::Exhausted);
}

/// As far as that driver goes: it boots nothing, so it has no ports, no console and no limits.
#[cfg(feature = "libvirt")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libvirts_test_driver_does_what_every_backend_does() {
    let Some(host) = crate::libvirt_host::LibvirtHost::hollow("test:///default") else { return };
    conformance::check(&host).await;
}

#[cfg(feature = "libvirt")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_homes_on_one_libvirt_see_their_own_vms_only() {
    let uri = "test:///default";
    let Some(one) = crate::libvirt_host::LibvirtHost::hollow(uri) else { return };
    let Some(two) = crate::libvirt_host::LibvirtHost::hollow(uri) else { return };
    let (mine, theirs) = (one.open().await, two.open().await);
    mine.create(&one.order(id(1)), &()).await.unwrap();
    theirs.create(&two.order(id(2)), &()).await.unwrap();
    for (backend, number) in [(&mine, 1), (&theirs, 2)] {
        let listed: Vec<LeaseId> = backend.list().await.unwrap().iter().map(|instance| instance.id).collect();
        assert_eq!(listed, [id(number)]);
        backend.destroy(id(number)).await.unwrap();
    }
}
