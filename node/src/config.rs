//! The home and the settings: a flag before `GOLEMNODE_*` before `config.toml` before the default. A key that is not
//! known is an error that names it, since a misspelt price would sell for nothing.
use protocol::money::Amount;
use protocol::names::{BackendKind, Country, Currency, ImageName, Network, NodeName};
use protocol::units::{DiskGib, MemoryMib, Millis};
use protocol::{ErrorCode, Fault, Keypair, PeerId};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// libvirt puts sockets about 60 characters below the home, and a Unix socket's path ends at 107.
pub const LONGEST_HOME: usize = 45;

/// Where everything of one node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// `--home`, `GOLEMNODE_HOME`, `/var/lib/golemnode` for root (QEMU's own user cannot enter /root), `~/.golem/node`.
    pub fn find(flag: Option<PathBuf>) -> Result<Self, Fault> {
        let named = flag.or_else(|| std::env::var_os("GOLEMNODE_HOME").map(PathBuf::from));
        let root = match named.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => path,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/golemnode"),
            None => std::env::home_dir()
                .ok_or_else(|| Fault::invalid("this user has no home directory").hint("name one with --home"))?
                .join(".golem/node"),
        };
        let root = std::path::absolute(&root).map_err(|error| io("use", &root, &error))?;
        Ok(Home(root))
    }
    /// Makes what is missing; only its owner reads the parts that hold secrets.
    pub fn create(&self) -> Result<(), Fault> {
        if !self.0.exists() {
            fs::create_dir_all(&self.0).map_err(|error| io("create", &self.0, &error))?;
        }
        for (dir, mode) in [(self.images(), 0o755), (self.vms(), 0o711), (self.ssh(), 0o700), (self.db(), 0o700)] {
            if !dir.exists() {
                let made = fs::DirBuilder::new().mode(mode).create(&dir);
                made.or_else(|error| if dir.is_dir() { Ok(()) } else { Err(io("create", &dir, &error)) })?;
            }
        }
        Ok(())
    }
    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }
    pub fn identity_file(&self) -> PathBuf {
        self.0.join("identity")
    }
    pub fn db(&self) -> PathBuf {
        self.0.join("db")
    }
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }
    pub fn vms(&self) -> PathBuf {
        self.0.join("vms")
    }
    pub fn ssh(&self) -> PathBuf {
        self.0.join("ssh")
    }
    pub fn socket(&self) -> PathBuf {
        self.0.join("api.sock")
    }
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }
    pub fn start_lock(&self) -> PathBuf {
        self.0.join("start.lock")
    }

    /// The node's key, made at the first use. A file that cannot be a key is never overwritten.
    pub fn identity(&self) -> Result<Keypair, Fault> {
        let path = self.identity_file();
        match OpenOptions::new().read(true).open(&path) {
            Ok(file) => read_identity(&path, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.make_identity(&path),
            Err(error) => Err(io("read", &path, &error)),
        }
    }

    /// Written beside and linked into place, so that two commands at once agree on one key and neither reads half.
    fn make_identity(&self, path: &Path) -> Result<Keypair, Fault> {
        let secret = random_32()?;
        let fresh = self.0.join(format!("identity.{}", std::process::id()));
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).and_then(|mut file| {
                file.write_all(hex::encode(secret).as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            });
        written.map_err(|error| io("write", &fresh, &error))?;
        let linked = fs::hard_link(&fresh, path);
        fs::remove_file(&fresh).map_err(|error| io("remove", &fresh, &error))?;
        match linked {
            Ok(()) => Ok(Keypair::from_secret(&secret)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => self.identity(),
            Err(error) => Err(io("write", path, &error)),
        }
    }
}

fn read_identity(path: &Path, mut file: File) -> Result<Keypair, Fault> {
    let mode = file.metadata().map_err(|error| io("read", path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Fault::invalid(format!("{} is readable by others", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    let mut secret = [0; 32];
    let read = Read::by_ref(&mut file).take(256).read_to_string(&mut text);
    if read.is_err() || hex::decode_to_slice(text.trim(), &mut secret).is_err() {
        return Err(Fault::invalid(format!("{} is not a golemnode identity", path.display()))
            .hint("restore it from a backup; removing it makes a new node that owns none of the old one's VMs"));
    }
    Ok(Keypair::from_secret(&secret))
}

/// One node per home. The file names who holds it; the lock itself is the operating system's, and ends with the process.
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    pub fn take(home: &Home) -> Result<Self, Fault> {
        let path = home.root().join("node.lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(|error| io("lock", &path, &error))?;
        if file.try_lock().is_err() {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(16).read_to_string(&mut pid);
            return Err(Fault::new(
                ErrorCode::Unavailable,
                format!("a node runs on {} already (process {})", home.root().display(), pid.trim()),
            )
            .hint("'golemnode node stop' ends it; --home names another home"));
        }
        let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        written.map_err(|error| io("lock", &path, &error))?;
        Ok(NodeLock { _file: file })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    #[default]
    Auto,
    Kvm,
    Tcg,
}

impl FromStr for Accel {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "auto" => Ok(Accel::Auto),
            "kvm" => Ok(Accel::Kvm),
            "tcg" => Ok(Accel::Tcg),
            other => Err(Fault::invalid(format!("'{other}' is no accelerator")).hint("use auto, kvm or tcg")),
        }
    }
}

/// What a provider sells, and how.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    pub name: Option<NodeName>,
    pub country: Option<Country>,
    pub backend: BackendKind,
    pub libvirt_uri: Option<String>,
    pub accel: Accel,
    pub max_vms: u32,
    pub min_memory: MemoryMib,
    pub min_disk: DiskGib,
    pub min_cpus: u32,
    /// Percent, each.
    pub cpu_threshold: u8,
    pub memory_threshold: u8,
    pub disk_threshold: u8,
    pub price_per_hour: Amount,
    pub currency: Currency,
    pub advert_interval: Duration,
    pub max_lease: Duration,
    pub grace: Duration,
    pub offer_cpus: Option<u32>,
    pub offer_memory: Option<MemoryMib>,
    pub offer_disk: Option<DiskGib>,
    pub overcommit_cpu: f64,
    pub allow: Vec<PeerId>,
    pub deny: Vec<PeerId>,
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    pub network: Network,
    pub listen: Vec<String>,
    pub bootstrap: Vec<String>,
    pub mdns: bool,
    pub default_image: ImageName,
    pub provider: ProviderSettings,
}

impl Default for Settings {
    fn default() -> Self {
        fn name<T: FromStr<Err = Fault>>(text: &str) -> T {
            text.parse().unwrap_or_else(|fault: Fault| unreachable!("a default is valid: {fault}"))
        }
        let anywhere = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1"];
        Settings {
            network: name("main"),
            listen: anywhere.map(str::to_owned).to_vec(),
            bootstrap: Vec::new(),
            mdns: true,
            default_image: name("ubuntu:24.04"),
            provider: ProviderSettings {
                name: None,
                country: None,
                backend: name("libvirt"),
                libvirt_uri: None,
                accel: Accel::Auto,
                max_vms: 10,
                min_memory: MemoryMib(1024),
                min_disk: DiskGib(10),
                min_cpus: 1,
                cpu_threshold: 90,
                memory_threshold: 85,
                disk_threshold: 90,
                price_per_hour: Amount::ZERO,
                currency: name("EUR"),
                advert_interval: Duration::from_secs(120),
                max_lease: Duration::from_secs(30 * 86_400),
                grace: Duration::from_secs(86_400),
                offer_cpus: None,
                offer_memory: None,
                offer_disk: None,
                overcommit_cpu: 1.0,
                allow: Vec::new(),
                deny: Vec::new(),
            },
        }
    }
}

impl Settings {
    /// The file's, then the environment's. Flags come later, from the command line.
    pub fn load(home: &Home) -> Result<Self, Fault> {
        let mut settings = Settings::default();
        let path = home.config_file();
        match fs::read_to_string(&path) {
            Ok(text) => settings.read(&path, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("read", &path, &error)),
        }
        for key in KEYS {
            let variable = format!("GOLEMNODE_{}", key.to_ascii_uppercase());
            let Ok(text) = std::env::var(&variable) else { continue };
            let values: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
            let values = if is_list(key) { values } else { vec![text] };
            settings.set(key, &values).map_err(|fault| at(fault, &variable))?;
        }
        Ok(settings)
    }

    fn read(&mut self, path: &Path, text: &str) -> Result<(), Fault> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            Fault::invalid(format!("{}:{line}: {}", path.display(), error.message()))
        })?;
        for (key, value) in table {
            let place = format!("{}:{}", path.display(), line_of(text, &key));
            if !KEYS.contains(&key.as_str()) {
                return Err(Fault::invalid(format!("{place}: no setting is named '{key}'")).hint(nearest(&key)));
            }
            let values = words(&value).ok_or_else(|| Fault::invalid(format!("{place}: '{key}' is not a table")))?;
            self.set(&key, &values).map_err(|fault| at(fault, &format!("{place}: {key}")))?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, values: &[String]) -> Result<(), Fault> {
        let p = &mut self.provider;
        match key {
            "network" => self.network = one(values)?,
            "listen" => self.listen = values.to_vec(),
            "bootstrap" => self.bootstrap = values.to_vec(),
            "mdns" => self.mdns = yes_or_no(values)?,
            "default_image" => self.default_image = one(values)?,
            "name" => p.name = Some(one(values)?),
            "country" => p.country = Some(one(values)?),
            "backend" => p.backend = one(values)?,
            "libvirt_uri" => p.libvirt_uri = Some(text(values)?),
            "accel" => p.accel = one(values)?,
            "max_vms" => p.max_vms = number(values, 1, 10_000)?,
            "min_memory" => p.min_memory = one(values)?,
            "min_disk" => p.min_disk = one(values)?,
            "min_cpus" => p.min_cpus = number(values, 1, 64)?,
            "cpu_threshold" => p.cpu_threshold = number(values, 1, 100)? as u8,
            "memory_threshold" => p.memory_threshold = number(values, 1, 100)? as u8,
            "disk_threshold" => p.disk_threshold = number(values, 1, 100)? as u8,
            "price_per_hour" => p.price_per_hour = one(values)?,
            "currency" => p.currency = one(values)?,
            "advert_interval" => p.advert_interval = duration(values, 10, 240)?,
            "max_lease" => p.max_lease = duration(values, 60, 366 * 86_400)?,
            "grace" => p.grace = duration(values, 0, 366 * 86_400)?,
            "offer_cpus" => p.offer_cpus = Some(number(values, 1, 100_000)?),
            "offer_memory" => p.offer_memory = Some(one(values)?),
            "offer_disk" => p.offer_disk = Some(one(values)?),
            "overcommit_cpu" => p.overcommit_cpu = factor(values)?,
            "allow" => p.allow = values.iter().map(|peer| peer.parse()).collect::<Result<_, _>>()?,
            "deny" => p.deny = values.iter().map(|peer| peer.parse()).collect::<Result<_, _>>()?,
            other => return Err(Fault::invalid(format!("no setting is named '{other}'"))),
        }
        Ok(())
    }
}

const KEYS: &[&str] = &[
    "network",
    "listen",
    "bootstrap",
    "mdns",
    "default_image",
    "name",
    "country",
    "backend",
    "libvirt_uri",
    "accel",
    "max_vms",
    "min_memory",
    "min_disk",
    "min_cpus",
    "cpu_threshold",
    "memory_threshold",
    "disk_threshold",
    "price_per_hour",
    "currency",
    "advert_interval",
    "max_lease",
    "grace",
    "offer_cpus",
    "offer_memory",
    "offer_disk",
    "overcommit_cpu",
    "allow",
    "deny",
];

fn is_list(key: &str) -> bool {
    matches!(key, "listen" | "bootstrap" | "allow" | "deny")
}

/// A value as words: a list keeps its parts, everything else is one.
fn words(value: &toml::Value) -> Option<Vec<String>> {
    let word = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Array(items) => items.iter().map(word).collect(),
        single => word(single).map(|word| vec![word]),
    }
}

fn text(values: &[String]) -> Result<String, Fault> {
    match values {
        [one] => Ok(one.clone()),
        _ => Err(Fault::invalid("it takes one value")),
    }
}
fn one<T: FromStr<Err = Fault>>(values: &[String]) -> Result<T, Fault> {
    text(values)?.parse()
}
fn number(values: &[String], least: u32, most: u32) -> Result<u32, Fault> {
    let text = text(values)?;
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Fault::invalid(format!("'{text}' is not a number from {least} to {most}")))
}
fn factor(values: &[String]) -> Result<f64, Fault> {
    let text = text(values)?;
    let factor = text.parse().ok().filter(|factor: &f64| (0.1..=64.0).contains(factor));
    factor.ok_or_else(|| Fault::invalid(format!("'{text}' is not a factor from 0.1 to 64")))
}
fn duration(values: &[String], least: u64, most: u64) -> Result<Duration, Fault> {
    let time: Millis = one(values)?;
    if time < Millis::secs(least) || time > Millis::secs(most) {
        return Err(Fault::invalid(format!("{time} is not from {} to {}", Millis::secs(least), Millis::secs(most))));
    }
    Ok(time.as_std())
}
fn yes_or_no(values: &[String]) -> Result<bool, Fault> {
    match text(values)?.as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        other => Err(Fault::invalid(format!("'{other}' is neither true nor false"))),
    }
}

fn at(fault: Fault, place: &str) -> Fault {
    Fault { message: format!("{place}: {}", fault.message), ..fault }
}

fn line_of(text: &str, key: &str) -> usize {
    let sets = |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    text.lines().position(sets).map_or(1, |at| at + 1)
}

/// The known key that begins most alike.
fn nearest(key: &str) -> String {
    let alike = |known: &&&str| known.chars().zip(key.chars()).take_while(|(a, b)| a == b).count();
    match KEYS.iter().max_by_key(alike).filter(|known| alike(known) >= 3) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("the settings are: {}", KEYS.join(", ")),
    }
}

/// What a node is started with.
#[derive(Clone)]
pub struct NodeConfig {
    pub home: Home,
    pub identity: Keypair,
    pub network: Network,
    pub listen: Vec<String>,
    pub bootstrap: Vec<String>,
    pub mdns: bool,
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
            listen: settings.listen,
            bootstrap: settings.bootstrap,
            mdns: settings.mdns,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, Fault> {
        let mut settings = Settings::default();
        settings.read(Path::new("config.toml"), text)?;
        Ok(settings)
    }

    #[test]
    fn settings_take_units_and_bad_ones_name_their_place() {
        let good = read("country = \"DE\"\nprice_per_hour = \"0.02\"\noffer_memory = \"4G\"\nmax_vms = 3\nbootstrap = [\"a\", \"b\"]\nmdns = false\novercommit_cpu = 2").unwrap();
        assert_eq!((good.provider.max_vms, good.provider.offer_memory, good.mdns), (3, Some(MemoryMib(4096)), false));
        assert_eq!(good.bootstrap, ["a", "b"]);
        for (text, place) in [
            ("\nmax_vm = 3", "config.toml:2: no setting is named 'max_vm'"),
            ("country = \"de\"", "config.toml:1: country: 'de'"),
            ("a = [", "config.toml:1"),
            ("offer_memory = 4", "config.toml:1: offer_memory"),
            ("advert_interval = \"300s\"", "config.toml:1: advert_interval"),
            ("max_vms = -1", "config.toml:1: max_vms"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.starts_with(place), "{}", fault.message);
        }
        assert_eq!(read("max_vm = 3").unwrap_err().hint.unwrap(), "did you mean 'max_vms'?");
    }

    #[test]
    fn an_identity_is_made_once_kept_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().to_owned());
        let id = home.identity().unwrap().peer_id();
        assert_eq!(home.identity().unwrap().peer_id(), id);
        let mode = fs::metadata(home.identity_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(home.identity_file(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(home.identity().is_err());
        fs::set_permissions(home.identity_file(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(home.identity_file(), "garbage").unwrap();
        assert!(home.identity().is_err());
        assert_eq!(fs::read_to_string(home.identity_file()).unwrap(), "garbage");
    }

    #[test]
    fn one_node_per_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().to_owned());
        let first = NodeLock::take(&home).unwrap();
        let fault = NodeLock::take(&home).err().unwrap();
        assert!(fault.message.contains(&std::process::id().to_string()), "{}", fault.message);
        drop(first);
        NodeLock::take(&home).unwrap();
    }
}
