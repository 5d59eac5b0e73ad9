//! Two nodes in this process: one lets simulated VMs, the other rents them.
use backends::images::ImageStore;
use backends::memory::{MemoryBackend, MemoryOptions};
use node::api::types::{CreateEvent, CreateVm, VmStatus, VmView};
use node::config::{Home, NodeConfig, Settings};
use node::handle::NodeHandle;
use node::{Node, ProviderParts, Tuning};
use protocol::core::provider::OfferedImage;
use protocol::names::IsolationWanted;
use protocol::units::{DiskGib, Resources};
use protocol::{Fault, Keypair, PeerId};
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Everything here happens on one machine within seconds.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const PROVIDER: [u8; 32] = [1; 32];
pub const REQUESTOR: [u8; 32] = [2; 32];

fn config(dir: &Path, secret: [u8; 32], bootstrap: Vec<String>) -> NodeConfig {
    let home = Home::find(Some(dir.to_owned())).unwrap();
    home.create().unwrap();
    if !home.identity_file().exists() {
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(home.identity_file()).unwrap();
        std::io::Write::write_all(&mut file, hex::encode(secret).as_bytes()).unwrap();
    }
    let mut settings = Settings {
        network: "store".parse().unwrap(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
        bootstrap,
        mdns: false,
        upnp: false,
        ..Settings::default()
    };
    settings.provider.backend = "memory".parse().unwrap();
    NodeConfig::new(home, settings, secret == PROVIDER).unwrap()
}

pub async fn provider(dir: &Path) -> Node {
    let config = config(dir, PROVIDER, Vec::new());
    let name: protocol::names::ImageName = "tiny".parse().unwrap();
    let digest = MemoryOptions::digest_of(name.as_str());
    let image = OfferedImage { digest, user: "root".parse().unwrap(), least_disk: DiskGib(1) };
    let parts = ProviderParts {
        backend: Arc::new(MemoryBackend::default()),
        images: ImageStore::new(config.home.images()),
        simulated: BTreeMap::from([(name, image)]),
        settings: config.provider.clone(),
    };
    node::start(&config, Some(parts), Tuning::default()).await.unwrap()
}

pub async fn requestor(dir: &Path, provider: &Node) -> Node {
    let addrs = provider.handle.status().await.unwrap().listen_addrs;
    node::start(&config(dir, REQUESTOR, addrs), None, Tuning::default()).await.unwrap()
}

pub fn peer(secret: [u8; 32]) -> PeerId {
    Keypair::from_secret(&secret).peer_id()
}

/// Asks once.
pub async fn rent(node: &NodeHandle, name: &str) -> Result<VmView, Fault> {
    let order = CreateVm {
        name: name.parse().unwrap(),
        resources: Resources::SMALL,
        image: "tiny".parse().unwrap(),
        provider: None,
        country: None,
        arch: None,
        max_price: None,
        backend: None,
        isolation: IsolationWanted::Any,
        duration_s: 3600,
        or_less: false,
        allow_smaller: false,
        project: None,
        ssh_key: None,
        user_data: None,
        ports: Vec::new(),
        timeout_s: 20,
        wait: true,
    };
    let mut events = node.create(order).await?;
    loop {
        match events.recv().await {
            Some(CreateEvent::Done { vm }) => return Ok(*vm),
            Some(CreateEvent::Failed { error }) => return Err(error),
            Some(_) => {}
            None => return Err(Fault::internal("the create ended without a word")),
        }
    }
}

/// Until it is so; what is asked is answered at once, so it is asked at a pace.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

pub async fn status_of(node: &NodeHandle, name: &str) -> Option<VmStatus> {
    node.vm(name).await.ok().map(|vm| vm.status)
}
