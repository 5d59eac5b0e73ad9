//! Two hosts behind two NATs and a public relay between them: a VM is rented, logged into and copied to, and the way
//! there is shown. `GOLEMNODE_NAT_FULL=1` (or `make nat-full`) copies more, for longer, over more kinds of NAT.
mod sshd;
mod world;

use serde_json::Value;
use sshd::Sshd;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::{Home, PATIENCE, eventually, golemnode};
use world::{Nat, RELAY, World};

const SETTINGS: &str = "network = \"test\"\nmdns = false\nupnp = false\n\
    min_memory = \"128M\"\nmin_disk = \"1G\"\nbackend = \"memory\"\ndefault_image = \"tiny\"\n";

/// By what the nodes speak: everything, or what is left where UDP is blocked.
#[derive(Clone, Copy)]
enum Over {
    Both,
    Tcp,
}

impl Over {
    fn listen(self) -> &'static str {
        match self {
            Over::Both => "listen = [\"/ip4/0.0.0.0/tcp/4001\", \"/ip4/0.0.0.0/udp/4001/quic-v1\"]\n",
            Over::Tcp => "listen = [\"/ip4/0.0.0.0/tcp/4001\"]\n",
        }
    }
    fn addr(self, relay: &str) -> String {
        match self {
            Over::Both => format!("/ip4/{RELAY}/udp/4001/quic-v1/p2p/{relay}"),
            Over::Tcp => format!("/ip4/{RELAY}/tcp/4001/p2p/{relay}"),
        }
    }
}

/// A node in one of the namespaces. Its API is a socket in its home, which is in none.
struct Host {
    home: Home,
    process: Child,
}

impl Host {
    fn start(world: &World, space: &str, over: Over, join: Option<&str>, provide: Option<&str>) -> Host {
        let home = Home::new();
        let bootstrap = join.map(|addr| format!("bootstrap = [\"{addr}\"]\n")).unwrap_or_default();
        home.config(&format!("{SETTINGS}{}{bootstrap}", over.listen()));
        let command = match provide {
            // A provider like any other, whose simulated guests all lead to one server.
            Some(endpoint) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
                command.args(["role", "provide"]).arg(home.path()).arg(endpoint);
                command
            }
            None => home.command(&["-v", "node", "run"]),
        };
        let log = std::fs::File::create(home.path().join("test.log")).unwrap();
        let process = world.spawn(space, command, log.into());
        let host = Host { home, process };
        eventually("a node answers", PATIENCE, || host.home.path().join("api.sock").exists().then_some(()));
        host
    }
    fn status(&self) -> Value {
        self.home.json(&["node", "status"])
    }
    fn id(&self) -> String {
        self.status()["peer_id"].as_str().unwrap().to_owned()
    }
    /// The addresses of a node that nobody can reach but by a relay.
    fn called_by_a_relay(&self) -> Vec<String> {
        let addrs = eventually("a relay calls it", PATIENCE, || {
            let status = self.status();
            let addrs: Vec<String> = status["external_addrs"]
                .as_array()?
                .iter()
                .filter_map(|addr| Some(addr.as_str()?.to_owned()))
                .collect();
            (status["reachability"] == "private" && !addrs.is_empty()).then_some(addrs)
        });
        let why = self.status()["reachability_why"].as_str().unwrap().to_owned();
        assert!(why.contains("could not connect to"), "{why}");
        assert!(addrs.iter().all(|addr| addr.contains("/p2p-circuit/p2p/")), "{addrs:?}");
        addrs
    }
    /// How this node gets to another: the path, and the relay.
    fn path_to(&self, peer: &str) -> Option<(String, Option<String>)> {
        let peers = self.home.json(&["node", "peers"]);
        let peer = peers.as_array()?.iter().find(|known| known["peer_id"] == peer)?.clone();
        Some((peer["path"].as_str()?.to_owned(), peer["relay"].as_str().map(str::to_owned)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.home.path().join("test.log")).unwrap_or_default();
            eprintln!("--- log of {}:\n{log}", self.home.path().display());
        }
        let _ = self.home.command(&["node", "stop"]).output();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The three nodes, with a VM rented by the one at `a` from the one at `b`.
struct Rented {
    world: World,
    sshd: Sshd,
    relay: Host,
    provider: Host,
    requestor: Host,
}

impl Rented {
    fn new(name: &str, over: Over, a: Nat, b: Nat) -> Option<Rented> {
        let world = match World::new(name, a, b) {
            Ok(world) => world,
            Err(why) => {
                eprintln!("SKIPPED: two hosts behind NATs: {why}");
                return None;
            }
        };
        let Some(sshd) = Sshd::start(&world, "b") else {
            eprintln!("SKIPPED: two hosts behind NATs: no sshd is installed");
            return None;
        };
        let relay = Host::start(&world, "relay", over, None, None);
        let addr = over.addr(&relay.id());
        let provider = Host::start(&world, "b", over, Some(&addr), Some(sshd.endpoint()));
        provider.called_by_a_relay();
        assert_eq!(relay.status()["reachability"], "public", "{}", relay.status());
        let requestor = Host::start(&world, "a", over, Some(&addr), None);
        let rented = Rented { world, sshd, relay, provider, requestor };
        let on_board = |list: Value| list.as_array().filter(|list| !list.is_empty()).map(|_| ());
        eventually("the provider is on the board", PATIENCE, || {
            on_board(rented.requestor.home.json(&["provider", "list", "--isolation", "any"]))
        });
        let vm = rented.requestor.home.json(&["vm", "create", "web", "--isolation", "any", "--image", "tiny"]);
        assert_eq!((&vm["status"], &vm["provider"]), (&Value::from("running"), &Value::from(rented.provider.id())));
        Some(rented)
    }

    /// As `node peers` says on both sides, and `vm info`.
    fn path_is(&self, wanted: &str) {
        eventually(&format!("the way to the tenant is {wanted}"), PATIENCE, || {
            self.provider.path_to(&self.requestor.id()).filter(|path| *path == self.path(wanted))
        });
        self.path_to_the_vm_is(wanted);
    }

    fn path(&self, wanted: &str) -> (String, Option<String>) {
        (wanted.to_owned(), (wanted == "relayed").then(|| self.relay.id()))
    }

    fn path_to_the_vm_is(&self, wanted: &str) {
        let path = self.path(wanted);
        eventually(&format!("the way to the VM is {wanted}"), PATIENCE, || {
            let vm = self.requestor.home.json(&["vm", "info", "web"]);
            let shown = (vm["path"].as_str()?.to_owned(), vm["relay"].as_str().map(str::to_owned));
            (shown == path && self.requestor.path_to(&self.provider.id())? == path).then_some(())
        });
        let text = self.requestor.home.run(&["vm", "info", "web"]).ok().stdout();
        assert!(text.lines().any(|line| line.starts_with("path") && line.contains(wanted)), "{text}");
    }

    /// What the relay says that it has carried.
    fn relayed_bytes(&self) -> u64 {
        let status = self.relay.status();
        status["relay"]["bytes"].as_u64().unwrap_or_else(|| panic!("it does not relay: {status}"))
    }

    fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.config()).args(["web", command]).stdin(Stdio::null());
        ssh
    }
    fn config(&self) -> PathBuf {
        let home = self.requestor.home.path();
        let proxy = format!("{} --home {} vm proxy web", golemnode().display(), home.display());
        self.sshd.config(home, &proxy)
    }

    /// There and back by scp, and compared.
    fn copy(&self, mib: usize) {
        let dir = self.requestor.home.path();
        let (file, back) = (dir.join("file"), dir.join("back"));
        noise(&file, mib);
        let there = self.provider.home.path().join("there");
        let scp = |from: &str, to: &str| {
            let started = Instant::now();
            let done = Command::new("scp").arg("-F").arg(self.config()).args([from, to]).output().unwrap();
            assert!(done.status.success(), "scp {from} {to}: {}", String::from_utf8_lossy(&done.stderr));
            mib as f64 / started.elapsed().as_secs_f64()
        };
        let remote = format!("web:{}", there.display());
        let (out, home) = (scp(file.to_str().unwrap(), &remote), scp(&remote, back.to_str().unwrap()));
        println!("{mib} MiB: {out:.1} MiB/s there, {home:.1} MiB/s back");
        let sums = [&file, &there, &back].map(|path| sum(path));
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        for path in [file, there, back] {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// A session that is open for so long and carries so much, in a steady stream.
    fn session(&self, time: Duration, mib: usize) {
        let mut ssh = self.ssh("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, chunk) = (ssh.stdin.take().unwrap(), bytes(1 << 20));
        let started = Instant::now();
        for n in 0..mib {
            input.write_all(&chunk).unwrap_or_else(|error| panic!("after {n} MiB, {:?}: {error}", started.elapsed()));
            // Steadily: what is tested is how long it lasts.
            let due = time.mul_f64((n + 1) as f64 / mib as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        drop(input);
        let mut said = String::new();
        ssh.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(ssh.wait().unwrap().success());
        println!("one session: {mib} MiB in {:.0} s", started.elapsed().as_secs_f64());
        let path = self.requestor.home.path().join("expected");
        let mut file = std::fs::File::create(&path).unwrap();
        (0..mib).for_each(|_| file.write_all(&chunk).unwrap());
        assert_eq!(said.split(' ').next(), sum(&path).split(' ').next());
        std::fs::remove_file(path).unwrap();
    }
}

fn bytes(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
fn noise(path: &Path, mib: usize) {
    std::fs::write(path, bytes(mib << 20)).unwrap();
}
fn sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn is_full() -> bool {
    std::env::var_os("GOLEMNODE_NAT_FULL").is_some_and(|value| !value.is_empty())
}
fn size() -> usize {
    if is_full() { 200 } else { 20 }
}

/// Two routers that each know only who was spoken to: the hosts speak to each other at once, and need nobody any more.
#[test]
fn a_vm_behind_a_cone_nat_is_rented_from_behind_another_and_reached_through_a_hole() {
    let Some(rented) = Rented::new("c", Over::Both, Nat::Cone, Nat::Cone) else { return };
    rented.path_is("hole-punched");
    assert_eq!(rented.ssh("echo $((6*7))").output().unwrap().stdout, b"42\n");
    rented.copy(size());
    let carried = rented.relayed_bytes();
    assert!(carried < 1 << 20, "{carried} bytes went by the relay");
    // The relay is of no consequence now.
    let world = &rented.world;
    ["nata", "natb"].iter().for_each(|site| world.sever("relay", site));
    rented.copy(1);
    rented.path_is("hole-punched");
    ["nata", "natb"].iter().for_each(|site| world.mend("relay", site));
    // And when the hole is closed, the next session takes the other way, by itself.
    world.sever("nata", "natb");
    let started = Instant::now();
    // It may fail once: the connections to the relay were silent for a while, and may have to be made again first.
    eventually("the next session works", PATIENCE, || {
        let ssh = rented.ssh("echo $((6*7))").output().unwrap();
        eprint!("{}", String::from_utf8_lossy(&ssh.stderr));
        (ssh.stdout == b"42\n").then_some(())
    });
    println!("another way after {:.1} s", started.elapsed().as_secs_f64());
    // The other end has not tried, and finds out when a ping is not answered.
    rented.path_to_the_vm_is("relayed");
    rented.copy(1);
}

#[test]
fn a_hole_is_punched_where_udp_is_blocked_too() {
    let Some(rented) = Rented::new("t", Over::Tcp, Nat::Cone, Nat::Cone) else { return };
    rented.path_is("hole-punched");
    rented.copy(if is_full() { 200 } else { 1 });
}

/// Routers that take another port for everybody one speaks to: no hole can be punched, and a relay carries it all.
#[test]
fn a_vm_behind_a_symmetric_nat_is_rented_from_behind_another_and_reached_by_a_relay() {
    let Some(rented) = Rented::new("s", Over::Both, Nat::Symmetric, Nat::Symmetric) else { return };
    rented.path_is("relayed");
    assert_eq!(rented.ssh("echo $((6*7))").output().unwrap().stdout, b"42\n");
    rented.copy(size());
    rented.path_is("relayed");
    let carried = eventually("it is charged", PATIENCE, || {
        Some(rented.relayed_bytes()).filter(|bytes| *bytes >= (2 * size() as u64) << 20)
    });
    println!("the relay has carried {} MiB", carried >> 20);
    if is_full() {
        rented.session(Duration::from_secs(600), 1100);
        rented.path_is("relayed");
    }
}

#[test]
fn one_symmetric_nat_is_enough_to_need_a_relay() {
    if !is_full() {
        eprintln!("SKIPPED: a cone and a symmetric NAT: only with GOLEMNODE_NAT_FULL=1 (make nat-full)");
        return;
    }
    let Some(rented) = Rented::new("m", Over::Both, Nat::Cone, Nat::Symmetric) else { return };
    rented.path_is("relayed");
    rented.copy(size());
}
