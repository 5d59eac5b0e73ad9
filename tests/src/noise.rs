//! A guest that takes all it can, and what its neighbour and the node's API feel of it: round trips in slices of time, in
//! turns with the loud guest stopped and going on. Used by `make bench` at length, and by a test that looks for gross
//! breakage.
use crate::{Home, PATIENCE, eventually};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Until a guest that goes on is at full noise again, and until one that was stopped has drained.
const SETTLE: Duration = Duration::from_millis(300);
const LOUD: &str = "loud";
const QUIET: &str = "quiet";

/// What it does, and with what it is done in its guest.
pub const NOISES: [(&str, &str); 3] = [
    ("busy loops on two CPUs", "for n in 1 2; do (while :; do :; done) & done"),
    (
        "a disk that is filled, again and again",
        "while :; do dd if=/dev/zero of=/root/fill bs=64k; sync; rm /root/fill; done",
    ),
    ("a fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 600"),
];

pub struct Plan {
    /// Pairs of a quiet slice and a loud one, for each noise.
    pub pairs: usize,
    /// Round trips by ssh in each slice, and questions to the API for each of them.
    pub ssh: usize,
    pub api: usize,
}

/// In milliseconds.
#[derive(Default)]
pub struct Samples {
    pub ssh: Vec<f64>,
    pub api: Vec<f64>,
}

pub struct Outcome {
    pub noise: &'static str,
    pub quiet: Samples,
    pub loud: Samples,
}

/// The tenant's two guests, both at the same provider.
pub struct Neighbours<'a> {
    provider: &'a Home,
    tenant: &'a Home,
    loud: String,
    shell: Shell,
    api: Api,
}

impl<'a> Neighbours<'a> {
    /// Both nodes run, and the provider has room for three CPUs.
    pub fn new(provider: &'a Home, tenant: &'a Home) -> Self {
        let create = |name: &str, cpus: &str| {
            let size = ["--image", "tiny", "--cpus", cpus, "--memory", "256M", "--disk", "1G"];
            let vm = tenant.json(&[&["vm", "create", name], &size[..]].concat());
            vm["lease"]["id"].as_str().expect("a lease").to_owned()
        };
        let loud = create(LOUD, "2");
        create(QUIET, "1");
        Neighbours { provider, tenant, loud, shell: Shell::open(tenant, QUIET), api: Api::open(provider) }
    }

    pub fn hear(&mut self, plan: &Plan) -> Vec<Outcome> {
        NOISES.iter().map(|(noise, command)| self.hear_one(noise, command, plan)).collect()
    }

    fn hear_one(&mut self, noise: &'static str, command: &str, plan: &Plan) -> Outcome {
        let begin = format!("setsid sh -c '{command}' >/dev/null 2>&1 </dev/null & sleep 1");
        self.tenant.run(&["vm", "exec", LOUD, "--", "sh", "-c", &begin]).ok();
        let stopped = Stopped::of(self.provider, &self.loud);
        let mut outcome = Outcome { noise, quiet: Samples::default(), loud: Samples::default() };
        for _ in 0..plan.pairs {
            stopped.signal("STOP");
            sleep(SETTLE);
            self.slice(plan, &mut outcome.quiet);
            stopped.signal("CONT");
            sleep(SETTLE);
            self.slice(plan, &mut outcome.loud);
        }
        drop(stopped);
        // Whatever is left of it is gone with its power.
        self.tenant.run(&["vm", "stop", LOUD, "--force"]).ok();
        self.tenant.run(&["vm", "start", LOUD]).ok();
        outcome
    }

    fn slice(&mut self, plan: &Plan, into: &mut Samples) {
        for _ in 0..plan.ssh {
            into.ssh.push(self.shell.round_trip());
            into.api.extend((0..plan.api).map(|_| self.api.round_trip()));
        }
    }
}

/// A process that stands still, and goes on at the latest when this is dropped.
struct Stopped(String);

impl Stopped {
    fn of(provider: &Home, lease: &str) -> Self {
        let pattern = format!("qemu-system.*guest=golemnode-{lease}.*{}", provider.path().display());
        let pid = eventually("the loud guest runs", PATIENCE, || {
            let found = Command::new("pgrep").args(["-f", &pattern]).output().expect("pgrep").stdout;
            String::from_utf8_lossy(&found).lines().next().map(str::to_owned)
        });
        Stopped(pid)
    }
    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.0]).status();
        assert!(done.expect("kill").success(), "{signal}");
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

/// An ssh connection through the mesh, whose other end says again what it hears.
struct Shell {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Shell {
    fn open(tenant: &Home, vm: &str) -> Self {
        let mut command = tenant.command(&["vm", "exec", vm, "--", "cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("golemnode runs");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut shell = Shell { child, to, from: BufReader::new(from) };
        shell.round_trip();
        shell
    }
    fn round_trip(&mut self) -> f64 {
        let (began, mut line) = (Instant::now(), String::new());
        self.to.write_all(b"a key\n").and_then(|()| self.to.flush()).expect("the guest listens");
        self.from.read_line(&mut line).expect("the guest answers");
        assert_eq!(line, "a key\n");
        began.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection to the provider's own API.
struct Api(BufReader<UnixStream>);

impl Api {
    fn open(home: &Home) -> Self {
        Api(BufReader::new(UnixStream::connect(home.path().join("api.sock")).expect("a node runs")))
    }
    fn round_trip(&mut self) -> f64 {
        let began = Instant::now();
        self.0.get_mut().write_all(b"GET /api/v1/node HTTP/1.1\r\nhost: node\r\n\r\n").expect("it listens");
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("it answers") > 0, "it hung up");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("it answers");
        assert!(body.starts_with(b"{\"peer_id\""), "{}", String::from_utf8_lossy(&body));
        began.elapsed().as_secs_f64() * 1e3
    }
}

/// By nearest rank.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

impl Samples {
    fn each(&self) -> [(&'static str, &[f64]); 2] {
        [("ssh", &self.ssh), ("API", &self.api)]
    }
}

impl Outcome {
    /// Which percentiles are beyond both `times` what they are in quiet and `more` milliseconds above.
    pub fn beyond(&self, times: f64, more: f64, percents: &[f64]) -> Vec<String> {
        let mut beyond = Vec::new();
        for ((what, quiet), (_, loud)) in self.quiet.each().into_iter().zip(self.loud.each()) {
            for percent in percents {
                let (quiet, loud) = (percentile(quiet, *percent), percentile(loud, *percent));
                if loud > (quiet * times).max(quiet + more) {
                    beyond.push(format!("{}: {what} p{percent}: {quiet:.2} ms, then {loud:.2}", self.noise));
                }
            }
        }
        beyond
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.noise)?;
        for ((what, quiet), (_, loud)) in self.quiet.each().into_iter().zip(self.loud.each()) {
            write!(f, "\n  {what} ({} and {})", quiet.len(), loud.len())?;
            for percent in [50.0, 90.0, 99.0] {
                let (quiet, loud) = (percentile(quiet, percent), percentile(loud, percent));
                write!(f, ", p{percent} {quiet:.2} → {loud:.2} ms ({:.2}×)", loud / quiet)?;
            }
        }
        Ok(())
    }
}
