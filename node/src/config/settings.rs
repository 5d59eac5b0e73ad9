//! What can be set: a flag before `GOLEMNODE_*` before `config.toml` before the default. A key that is not known is an
//! error that names it, since a misspelt price would sell for nothing.
use super::{Home, io};
use protocol::money::Amount;
use protocol::names::{BackendKind, Country, Currency, Egress, ImageName, Network, NodeName};
use protocol::units::{DiskGib, MemoryMib, Millis};
use protocol::{Fault, PeerId};
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

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
    /// What guests may reach at most. None: the Internet, where the host can hold them to that.
    pub egress: Option<Egress>,
    /// Mbit/s that one guest may send out of the host, and take in.
    pub vm_bandwidth: u32,
    /// What one guest may read and write of the disk, each second.
    pub vm_disk_rate: MemoryMib,
    pub vm_disk_iops: u32,
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
    /// A price asks for credit that was granted; else it is a matter of trust.
    pub prepaid: bool,
    pub advert_interval: Duration,
    pub max_lease: Duration,
    /// What strangers have who pay nothing: a lease of so long at most, so many VMs for those of one subnet.
    pub stranger_lease: Duration,
    pub stranger_vms: u32,
    /// After which a VM is stopped that its tenant has never used; zero for never.
    pub unused_stop: Duration,
    pub grace: Duration,
    pub offer_cpus: Option<u32>,
    pub offer_memory: Option<MemoryMib>,
    pub offer_disk: Option<DiskGib>,
    pub overcommit_cpu: f64,
    /// Guests made at once, and guests switched or removed at once.
    pub provision_jobs: u32,
    pub control_jobs: u32,
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
    /// Carry others' connections while this node can be reached.
    pub relay: bool,
    /// Ask the router to forward our ports.
    pub upnp: bool,
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
            relay: true,
            upnp: true,
            default_image: name("ubuntu:24.04"),
            provider: ProviderSettings {
                name: None,
                country: None,
                backend: name("libvirt"),
                libvirt_uri: None,
                accel: Accel::Auto,
                egress: None,
                vm_bandwidth: 100,
                vm_disk_rate: MemoryMib(100),
                vm_disk_iops: 2000,
                max_vms: 10,
                min_memory: MemoryMib(1024),
                min_disk: DiskGib(10),
                min_cpus: 1,
                cpu_threshold: 90,
                memory_threshold: 85,
                disk_threshold: 90,
                price_per_hour: Amount::ZERO,
                currency: name("EUR"),
                prepaid: true,
                advert_interval: Duration::from_secs(120),
                max_lease: Duration::from_secs(30 * 86_400),
                stranger_lease: Duration::from_secs(3600),
                stranger_vms: 4,
                unused_stop: Duration::from_secs(600),
                grace: Duration::from_secs(86_400),
                offer_cpus: None,
                offer_memory: None,
                offer_disk: None,
                overcommit_cpu: 1.0,
                provision_jobs: 2,
                control_jobs: 5,
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

    pub(crate) fn read(&mut self, path: &Path, text: &str) -> Result<(), Fault> {
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
            "relay" => self.relay = yes_or_no(values)?,
            "upnp" => self.upnp = yes_or_no(values)?,
            "default_image" => self.default_image = one(values)?,
            "name" => p.name = Some(one(values)?),
            "country" => p.country = Some(one(values)?),
            "backend" => p.backend = one(values)?,
            "libvirt_uri" => p.libvirt_uri = Some(text(values)?),
            "accel" => p.accel = one(values)?,
            "egress" => p.egress = egress(values)?,
            "vm_bandwidth" => p.vm_bandwidth = number(values, 1, 400_000)?,
            "vm_disk_rate" => p.vm_disk_rate = at_most(one(values)?, MemoryMib(100_000))?,
            "vm_disk_iops" => p.vm_disk_iops = number(values, 1, 10_000_000)?,
            "max_vms" => p.max_vms = number(values, 1, 10_000)?,
            "min_memory" => p.min_memory = one(values)?,
            "min_disk" => p.min_disk = one(values)?,
            "min_cpus" => p.min_cpus = number(values, 1, 64)?,
            "cpu_threshold" => p.cpu_threshold = number(values, 1, 100)? as u8,
            "memory_threshold" => p.memory_threshold = number(values, 1, 100)? as u8,
            "disk_threshold" => p.disk_threshold = number(values, 1, 100)? as u8,
            "price_per_hour" => p.price_per_hour = one(values)?,
            "currency" => p.currency = one(values)?,
            "prepaid" => p.prepaid = yes_or_no(values)?,
            "advert_interval" => p.advert_interval = duration(values, 10, 240)?,
            "max_lease" => p.max_lease = duration(values, 60, 366 * 86_400)?,
            "stranger_lease" => p.stranger_lease = duration(values, 60, 366 * 86_400)?,
            "stranger_vms" => p.stranger_vms = number(values, 0, 10_000)?,
            "unused_stop" => p.unused_stop = duration(values, 0, 366 * 86_400)?,
            "grace" => p.grace = duration(values, 0, 366 * 86_400)?,
            "offer_cpus" => p.offer_cpus = Some(number(values, 1, 100_000)?),
            "offer_memory" => p.offer_memory = Some(one(values)?),
            "offer_disk" => p.offer_disk = Some(one(values)?),
            "overcommit_cpu" => p.overcommit_cpu = factor(values)?,
            "provision_jobs" => p.provision_jobs = number(values, 1, 64)?,
            "control_jobs" => p.control_jobs = number(values, 1, 64)?,
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
    "relay",
    "upnp",
    "default_image",
    "name",
    "country",
    "backend",
    "libvirt_uri",
    "accel",
    "egress",
    "vm_bandwidth",
    "vm_disk_rate",
    "vm_disk_iops",
    "max_vms",
    "min_memory",
    "min_disk",
    "min_cpus",
    "cpu_threshold",
    "memory_threshold",
    "disk_threshold",
    "price_per_hour",
    "currency",
    "prepaid",
    "advert_interval",
    "max_lease",
    "stranger_lease",
    "stranger_vms",
    "unused_stop",
    "grace",
    "offer_cpus",
    "offer_memory",
    "offer_disk",
    "overcommit_cpu",
    "provision_jobs",
    "control_jobs",
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
fn at_most(size: MemoryMib, most: MemoryMib) -> Result<MemoryMib, Fault> {
    if (1..=most.0).contains(&size.0) {
        return Ok(size);
    }
    Err(Fault::invalid(format!("{size} is not from {} to {most}", MemoryMib(1))))
}
fn egress(values: &[String]) -> Result<Option<Egress>, Fault> {
    match text(values)?.as_str() {
        "auto" => Ok(None),
        "none" => Ok(Some(Egress::None)),
        "internet" => Ok(Some(Egress::Internet)),
        "open" => Ok(Some(Egress::Open)),
        other => Err(Fault::invalid(format!("'{other}' is no egress")).hint("use auto, none, internet or open")),
    }
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
        for (word, egress) in [("auto", None), ("none", Some(Egress::None)), ("open", Some(Egress::Open))] {
            assert_eq!(read(&format!("egress = \"{word}\"")).unwrap().provider.egress, egress);
        }
        assert_eq!(read("vm_disk_rate = \"1G\"").unwrap().provider.vm_disk_rate, MemoryMib(1024));
        for (text, place) in [
            ("\nmax_vm = 3", "config.toml:2: no setting is named 'max_vm'"),
            ("country = \"de\"", "config.toml:1: country: 'de'"),
            ("a = [", "config.toml:1"),
            ("offer_memory = 4", "config.toml:1: offer_memory"),
            ("advert_interval = \"300s\"", "config.toml:1: advert_interval"),
            ("max_vms = -1", "config.toml:1: max_vms"),
            ("egress = \"lan\"", "config.toml:1: egress: 'lan' is no egress"),
            ("vm_bandwidth = 0", "config.toml:1: vm_bandwidth"),
            ("vm_disk_rate = \"1T\"", "config.toml:1: vm_disk_rate"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.starts_with(place), "{}", fault.message);
        }
        assert_eq!(read("max_vm = 3").unwrap_err().hint.unwrap(), "did you mean 'max_vms'?");
    }
}
