//! The home, the settings, and what a node is started with.
mod home;
mod settings;

pub use home::{Home, LONGEST_HOME, NodeLock};
pub use settings::{Accel, ProviderSettings, Settings};

use crate::mesh::Carriers;
use protocol::names::{ImageName, Network};
use protocol::{ErrorCode, Fault, Keypair};
use std::path::Path;
use std::time::Duration;

/// What a node is started with.
#[derive(Clone)]
pub struct NodeConfig {
    pub home: Home,
    pub identity: Keypair,
    pub network: Network,
    /// Sockets, unless the node is one of many in a simulation.
    pub carriers: Carriers,
    pub listen: Vec<String>,
    pub bootstrap: Vec<String>,
    pub mdns: bool,
    pub relay: bool,
    pub upnp: bool,
    pub default_image: ImageName,
    pub provide: bool,
    pub provider: ProviderSettings,
    /// Leave after so long without a request, a tunnel or an unfinished release.
    pub idle_exit: Option<Duration>,
}

impl NodeConfig {
    pub fn new(home: Home, settings: Settings, provide: bool) -> Result<Self, Fault> {
        let embedded =
            provide && settings.provider.backend.as_str() == "libvirt" && settings.provider.libvirt_uri.is_none();
        let length = home.root().as_os_str().len();
        if embedded && length > LONGEST_HOME {
            return Err(Fault::invalid(format!(
                "the home {} has {length} characters; libvirt's sockets below it allow {LONGEST_HOME}",
                home.root().display()
            ))
            .hint("name a shorter one with --home, or set libvirt_uri"));
        }
        Ok(NodeConfig {
            identity: home.identity()?,
            home,
            network: settings.network,
            carriers: Carriers::default(),
            listen: settings.listen,
            bootstrap: settings.bootstrap,
            mdns: settings.mdns,
            relay: settings.relay,
            upnp: settings.upnp,
            default_image: settings.default_image,
            provide,
            provider: settings.provider,
            idle_exit: None,
        })
    }
}

pub fn random_32() -> Result<[u8; 32], Fault> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal(format!("no randomness: {error}")))?;
    Ok(bytes)
}
pub fn random_16() -> Result<[u8; 16], Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal(format!("no randomness: {error}")))?;
    Ok(bytes)
}

/// A fault of the file system, with what one can do about it.
pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull => Fault::new(ErrorCode::Exhausted, message).hint("free some space on that disk"),
        ErrorKind::PermissionDenied => Fault::invalid(message).hint("is it another user's? name a home with --home"),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ReadOnlyFilesystem => {
            Fault::invalid(message).hint("name a folder that can be written with --home")
        }
        _ => Fault::internal(message),
    }
}
