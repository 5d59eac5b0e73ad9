//! A host with a LAN and an Internet behind a router, in two network namespaces. Nothing of it is connected to this
//! machine's networks, and all of it goes when the value does.
//!
//! ```text
//!   host  192.168.77.2, 198.51.100.2 ── 192.168.77.1, 198.51.100.1  far: the LAN's others, a resolver, a router
//!                                                                       10.99.0.1    a private network behind it
//!                                                                       203.0.113.80 the Internet
//! ```
use super::ALONE;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const ROUTER: &str = "192.168.77.1";
/// The host's own.
pub const OWN: [&str; 3] = ["192.168.77.2", "198.51.100.2", "2001:db8:77::2"];
/// On the LAN, also where its addresses are public ones, and on private networks behind the router.
pub const NEAR: [&str; 4] = [ROUTER, "198.51.100.1", "10.99.0.1", "2001:db8:77::1"];
pub const INTERNET: &str = "203.0.113.80";
/// Says [`GREETING`] to whoever comes.
pub const DOOR: u16 = 80;
/// Takes all, and says [`GREETING`] at the end.
pub const SINK: u16 = 9;
/// Gives so many bytes.
pub const SOURCE: u16 = 19;
pub const SOURCE_BYTES: usize = 8 << 20;
pub const GREETING: &str = "reached";
/// Set for the process that runs in the host's namespace.
const WITHIN: &str = "GOLEMNODE_TEST_WITHIN";
/// Where the process in the namespace finds the firewall's tool, and how that is told to fail.
const TOOLS: &str = "GOLEMNODE_TEST_TOOLS";
const BROKEN: &str = "broken";
const SERVERS: &str = "guest::world::whoever_is_on_the_internet";

pub struct World {
    host: String,
    far: String,
    servers: Option<Child>,
    /// With an `nft` in front of the real one.
    tools: tempfile::TempDir,
}

/// Runs the test's body in a host's namespace, with a far end that answers; says why where it cannot.
pub fn within(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(WITHIN).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(body);
    }
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let mut command = world.command(&world.host, &std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(WITHIN, test).env(ALONE, test).env(TOOLS, world.tools.path());
    let path = format!("{}:{}", world.tools.path().display(), std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path);
    let output = command.output().unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
}

/// For tests in the host's namespace: its firewall's tool fails, or works again.
pub fn break_the_firewall(broken: bool) {
    let file = Path::new(&std::env::var_os(TOOLS).unwrap()).join(BROKEN);
    if broken { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
}

impl World {
    fn new() -> Result<World, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            let there = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
            if !there {
                return Err(format!("there is no {tool}: install {package}"));
            }
        }
        let name = |end: &str| format!("gn{}{end}", std::process::id());
        let tools = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (real, broken) = (Path::new("/usr/sbin/nft"), tools.path().join(BROKEN));
        let script = format!(
            "#!/bin/sh\n[ -e {} ] && {{ echo broken >&2; exit 1; }}\nexec {} \"$@\"\n",
            broken.display(),
            real.display()
        );
        let tool = tools.path().join("nft");
        fs::write(&tool, script)
            .and_then(|()| fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)))
            .map_err(|error| error.to_string())?;
        let mut world = World { host: name("host"), far: name("far"), servers: None, tools };
        for space in [&world.host, &world.far] {
            let made = Command::new("ip").args(["netns", "add", space]).stderr(Stdio::null()).status();
            if !made.is_ok_and(|status| status.success()) {
                return Err("no network namespace can be made here (ip netns add)".to_owned());
            }
        }
        world.ip(&["-n", &world.host, "link", "set", "lo", "up"]);
        world.ip(&["-n", &world.far, "link", "set", "lo", "up"]);
        world.ip(&[
            "-n",
            &world.host,
            "link",
            "add",
            "lan",
            "type",
            "veth",
            "peer",
            "name",
            "lan",
            "netns",
            &world.far,
        ]);
        let (host, far) = (&world.host, &world.far);
        let addresses = [
            (host, "lan", "192.168.77.2/24"),
            (host, "lan", "198.51.100.2/24"),
            (host, "lan", "2001:db8:77::2/64"),
            (far, "lan", "192.168.77.1/24"),
            (far, "lan", "198.51.100.1/24"),
            (far, "lan", "2001:db8:77::1/64"),
            (far, "lo", "10.99.0.1/32"),
            (far, "lo", "203.0.113.80/32"),
        ];
        for (space, link, address) in addresses {
            let family: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            world.ip(&[&["-n", space, "addr", "add", address, "dev", link], family].concat());
        }
        for space in [host, far] {
            world.ip(&["-n", space, "link", "set", "lan", "up"]);
        }
        world.ip(&["-n", host, "route", "add", "default", "via", ROUTER]);
        // `ip netns exec` puts it in the place of the machine's.
        fs::create_dir_all(world.conf()).map_err(|error| error.to_string())?;
        fs::write(world.conf().join("resolv.conf"), format!("nameserver {ROUTER}\n"))
            .map_err(|error| error.to_string())?;
        let mut servers = world.command(far, &std::env::current_exe().unwrap());
        servers.args(["--exact", SERVERS, "--nocapture"]).env(WITHIN, "far");
        world.servers = Some(servers.stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?);
        world.wait_for_servers();
        Ok(world)
    }

    fn conf(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.host)
    }

    fn ip(&self, args: &[&str]) {
        let done = Command::new("ip").args(args).output().unwrap();
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn command(&self, space: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).arg(program).stdin(Stdio::null());
        command
    }

    fn wait_for_servers(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let listens = || {
            let output =
                self.command(&self.far, Path::new("ss")).args(["-lnt", "sport", "=", &format!(":{SOURCE}")]).output();
            String::from_utf8_lossy(&output.unwrap().stdout).contains(&SOURCE.to_string())
        };
        while !listens() {
            assert!(Instant::now() < deadline, "the far end does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut servers) = self.servers.take() {
            // `ip netns exec` becomes the program: this is its process.
            let _ = servers.kill();
            let _ = servers.wait();
        }
        let _ = fs::remove_dir_all(self.conf());
        for space in [&self.host, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", space]).stderr(Stdio::null()).status();
        }
    }
}

/// Servers, in the process that was started for them.
#[test]
fn whoever_is_on_the_internet() {
    if std::env::var(WITHIN).as_deref() != Ok("far") {
        return;
    }
    serve(DOOR, |mut guest| guest.write_all(GREETING.as_bytes()));
    serve(SINK, |mut guest| {
        std::io::copy(&mut guest, &mut std::io::sink())?;
        guest.write_all(GREETING.as_bytes())
    });
    std::thread::spawn(resolve);
    serve(SOURCE, |mut guest| guest.write_all(&vec![b'x'; SOURCE_BYTES])).join().unwrap();
}

fn serve(
    port: u16,
    talk: impl Fn(TcpStream) -> std::io::Result<()> + Copy + Send + 'static,
) -> std::thread::JoinHandle<()> {
    // Of both families.
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for guest in listener.incoming().flatten() {
            std::thread::spawn(move || talk(guest));
        }
    })
}

/// Every name is the Internet's.
fn resolve() {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let Some(question) = packet[..length].get(12..) else { continue };
        let Some(end) = question.iter().position(|byte| *byte == 0) else { continue };
        let is_ipv4 = question.get(end + 1..end + 3) == Some(&[0, 1]);
        let mut answer = packet[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
        answer.extend(&question[..(end + 5).min(question.len())]);
        if is_ipv4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(INTERNET.parse::<Ipv4Addr>().unwrap().octets());
        }
        let _ = socket.send_to(&answer, from);
    }
}
