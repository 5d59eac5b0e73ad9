//! `golemnode doctor`: what this machine needs to rent and to offer, and how to mend what is missing.
use crate::context::Context;
use crate::failure::Outcome;
use backends::Check;
use clap::Args;
use node::api::client::{self, Client};
use node::api::types::NodeStatus;
use node::clock::{now, rfc3339};
use node::config::{Home, Settings};
use protocol::Fault;
use protocol::units::Timestamp;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Below this not even a small image and its overlay fit.
const LEAST_FREE: u64 = 2 << 30;
/// 2025-01-01: a clock before the first release is one that was never set.
const RELEASED: Timestamp = Timestamp(1_735_689_600_000);

#[derive(Args)]
pub struct DoctorArgs {}

pub fn run(context: &Context, _args: &DoctorArgs) -> Outcome {
    let home = context.home()?;
    let mut checks = vec![home_check(&home), settings_check(&home), disk_check(home.root())];
    checks.push(program("ssh", &["-V"], "install openssh-client (Debian, Ubuntu) or openssh-clients (Fedora)"));
    checks.push(clock_check());
    let settings = Settings::load(&home).unwrap_or_default();
    checks.extend(port_checks(&home, &settings));
    checks.extend(mesh_checks(context, &home));
    checks.extend(provider_checks(context, &home, &settings));
    let bad = checks.iter().filter(|check| !check.ok).count();
    context.show(&checks, || text(&checks))?;
    Ok(u8::from(bad > 0))
}

fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let verdict = if check.ok { "ok  " } else { "FAIL" };
        text.push_str(&format!("{verdict}  {:<width$}  {}\n", check.name, check.detail));
        if let Some(hint) = check.hint.as_ref().filter(|hint| !hint.is_empty()) {
            text.push_str(&format!("      {:<width$}  hint: {hint}\n", ""));
        }
    }
    text
}

fn of(name: &str, checked: Result<String, Fault>) -> Check {
    match checked {
        Ok(detail) => Check::ok(name, detail),
        Err(fault) => Check::bad(name, fault.message, fault.hint.unwrap_or_default()),
    }
}

fn home_check(home: &Home) -> Check {
    of("home", home.create().and_then(|()| home_state(home)))
}

fn home_state(home: &Home) -> Result<String, Fault> {
    let root = home.root();
    let meta = std::fs::metadata(root).map_err(|error| Fault::invalid(format!("{}: {error}", root.display())))?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Fault::invalid(format!("{} belongs to another user", root.display()))
            .hint("name your own with --home or GOLEMNODE_HOME"));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(Fault::invalid(format!("{} can be written by others", root.display()))
            .hint(format!("chmod go-w {}", root.display())));
    }
    home.identity()?;
    Ok(root.display().to_string())
}

fn settings_check(home: &Home) -> Check {
    let path = home.config_file();
    let place = if path.exists() { path.display().to_string() } else { "defaults, there is no config.toml".to_owned() };
    of("settings", Settings::load(home).map(|_| place))
}

fn disk_check(root: &Path) -> Check {
    let Ok(disk) = rustix::fs::statvfs(root) else {
        return Check::bad("disk", format!("the disk of {} cannot be asked", root.display()), "is it mounted?");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let detail = format!("{} free", crate::output::bytes(free));
    if free < LEAST_FREE {
        return Check::bad("disk", detail, format!("free some space on the disk of {}", root.display()));
    }
    Check::ok("disk", detail)
}

/// A program that is there and says its version.
fn program(name: &str, args: &[&str], hint: &str) -> Check {
    match Command::new(name).args(args).output() {
        Ok(said) => {
            let text = [said.stdout, said.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            Check::ok(name, text.lines().next().unwrap_or("it is there"))
        }
        Err(error) => Check::bad(name, error.to_string(), hint),
    }
}

/// What is signed carries the time, and a clock that is a minute off is refused by others.
fn clock_check() -> Check {
    let time = now();
    if time < RELEASED {
        return Check::bad("clock", rfc3339(time), "set the clock; systemd-timesyncd or chrony keep it right");
    }
    let asked = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let synchronised = asked.ok().map(|said| String::from_utf8_lossy(&said.stdout).trim() == "yes");
    let by = match synchronised {
        Some(true) => "kept by NTP",
        Some(false) => "not known to be kept by NTP; others refuse what is signed a minute ahead",
        None => "nothing here tells whether NTP keeps it",
    };
    Check::ok("clock", format!("{}, {by}", rfc3339(time)))
}

/// A node that runs holds its ports; otherwise they must be free.
fn port_checks(home: &Home, settings: &Settings) -> Vec<Check> {
    if client::is_alive(home) {
        return Vec::new();
    }
    let fixed = settings.listen.iter().filter(|addr| !addr.ends_with("/tcp/0") && !addr.contains("/udp/0/"));
    fixed.map(|addr| port_check(addr)).collect()
}

fn port_check(addr: &str) -> Check {
    let mut parts = addr.split('/').skip(1);
    let (_, ip, kind, port) = (parts.next(), parts.next(), parts.next(), parts.next());
    let name = format!("port {}", port.unwrap_or("?"));
    let target =
        ip.and_then(|ip| ip.parse::<std::net::IpAddr>().ok()).zip(port.and_then(|port| port.parse::<u16>().ok()));
    let Some(target) = target else {
        return Check::bad(name, format!("'{addr}' is no address to listen on"), "use /ip4/0.0.0.0/tcp/4001");
    };
    let bound = match kind {
        Some("udp") => UdpSocket::bind(target).map(drop),
        _ => TcpListener::bind(target).map(drop),
    };
    match bound {
        Ok(()) => Check::ok(name, format!("{addr} can be listened on")),
        Err(error) => Check::bad(name, format!("{addr}: {error}"), "end what holds it, or change the setting listen"),
    }
}

fn mesh_checks(context: &Context, home: &Home) -> Vec<Check> {
    if !client::is_alive(home) {
        return vec![Check::ok("mesh", "no node runs on this home now")];
    }
    let node = Client::new(home);
    match context.block_on(async { node.status().await }) {
        Ok(status) => vec![mesh_check(&status), reach_check(&status)],
        Err(_) => {
            vec![Check::bad("mesh", "the node does not answer", format!("look into {}", home.log().display()))]
        }
    }
}

fn mesh_check(status: &NodeStatus) -> Check {
    match status.peers {
        0 => Check::bad(
            "mesh",
            format!("the node is connected to nobody on the network '{}'", status.network),
            "join through another node's address: --bootstrap ADDR (see 'golemnode node invite' there)",
        ),
        peers => Check::ok("mesh", format!("{peers} peers, {} adverts", status.board.adverts)),
    }
}

/// Can others connect to this node? To rent, nobody need; what it offers must be reached, by a relay if need be.
fn reach_check(status: &NodeStatus) -> Check {
    let detail = super::node::reachability(status);
    let forward = "for a direct way, set listen to a fixed port and forward it in the router";
    let called = status.external_addrs.iter().any(|addr| addr.contains("/p2p-circuit"));
    match (status.reachability.as_str(), called, &status.provider) {
        ("public", ..) => Check::ok("reach", detail),
        ("private", false, Some(_)) => {
            let hint = format!("join through a node that can be reached, which relays; or {forward}");
            Check::bad("reach", format!("{detail}; and by no relay either: nobody can rent here"), hint)
        }
        ("private", true, _) => Check {
            hint: Some(forward.to_owned()),
            ..Check::ok("reach", format!("{detail}; others reach it by a relay"))
        },
        ("private", ..) => Check { hint: Some(forward.to_owned()), ..Check::ok("reach", detail) },
        _ => {
            let hint = "it is known some seconds after it has met another node".to_owned();
            Check { hint: Some(hint), ..Check::ok("reach", detail) }
        }
    }
}

#[cfg(not(feature = "libvirt"))]
fn provider_checks(_: &Context, _: &Home, _: &Settings) -> Vec<Check> {
    vec![Check::ok("libvirt", "this build is without it: it rents, and cannot offer libvirt's machines")]
}

#[cfg(feature = "libvirt")]
fn provider_checks(context: &Context, home: &Home, settings: &Settings) -> Vec<Check> {
    use backends::images::ImageStore;
    use backends::libvirt::Libvirt;
    use std::time::Duration;
    // A libvirtd that hangs must not hang the doctor.
    const DEADLINE: Duration = Duration::from_secs(60);

    let emulator = format!("qemu-system-{}", std::env::consts::ARCH);
    let mut checks =
        vec![program(&emulator, &["--version"], "install qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Fedora)")];
    checks.extend(place_check(home, settings));
    let (place, _held) = match Place::of(home) {
        Ok(place) => place,
        Err(fault) => return vec![of("libvirt", Err(fault))],
    };
    let (root, images) = (place.path().to_owned(), ImageStore::new(home.images()));
    let backend = Libvirt::new(node::libvirt_config(root, images, &settings.provider));
    let checked = context.block_on(async {
        let checked = tokio::time::timeout(DEADLINE, backends::Backend::check(&backend)).await;
        backends::Backend::close(&backend).await;
        Ok(checked)
    });
    match checked {
        Ok(Ok(found)) => checks.extend(found),
        _ => checks.push(Check::bad("libvirt", "it does not answer", "restart libvirtd, or use the embedded driver")),
    }
    checks
}

/// Where QEMU's own user and libvirt's sockets would fail.
#[cfg(feature = "libvirt")]
fn place_check(home: &Home, settings: &Settings) -> Option<Check> {
    let root = home.root();
    let embedded = settings.provider.libvirt_uri.is_none();
    if embedded && root.as_os_str().len() > node::config::LONGEST_HOME {
        let detail = format!(
            "{} is longer than the {} characters that libvirt's sockets allow",
            root.display(),
            node::config::LONGEST_HOME
        );
        return Some(Check::bad("place", detail, "name a shorter home with --home, or set libvirt_uri"));
    }
    let closed = |dir: &&Path| std::fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0);
    let barrier = root.ancestors().find(closed).filter(|_| rustix::process::geteuid().is_root())?;
    Some(Check::bad(
        "place",
        format!("QEMU's own user cannot enter {}", barrier.display()),
        format!("chmod o+x {}, or name another home, such as /var/lib/golemnode", barrier.display()),
    ))
}

/// The embedded driver is opened by one process at a time: on the home when no node runs there, else beside it.
#[cfg(feature = "libvirt")]
enum Place {
    Home(std::path::PathBuf),
    Beside(std::path::PathBuf),
}

#[cfg(feature = "libvirt")]
impl Place {
    fn of(home: &Home) -> Result<(Self, Option<node::config::NodeLock>), Fault> {
        if let Ok(lock) = node::config::NodeLock::take(home) {
            return Ok((Place::Home(home.root().to_owned()), Some(lock)));
        }
        let beside = std::env::temp_dir().join(format!("gn-doctor-{}", std::process::id()));
        let made = std::fs::create_dir(&beside);
        made.map_err(|error| Fault::invalid(format!("cannot create {}: {error}", beside.display())))?;
        Ok((Place::Beside(beside), None))
    }
    fn path(&self) -> &Path {
        match self {
            Place::Home(path) | Place::Beside(path) => path,
        }
    }
}

#[cfg(feature = "libvirt")]
impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Beside(path) = self {
            // A folder in /tmp that stays does no harm.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}
