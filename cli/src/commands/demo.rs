//! `golemnode demo`: the whole main job on this one machine. Three nodes in processes of their own (two providers and
//! an observer), a requestor that has none, a real guest, an ssh session through the mesh, and nothing left afterwards.
use crate::context::Context;
use crate::failure::Outcome;
use protocol::{ErrorCode, Fault};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starting a node, on a machine that does other things as well.
const NODE_DEADLINE: Duration = Duration::from_secs(30);
/// Until both providers' adverts are on the observer's board: the first libvirt connection probes QEMU for seconds.
const BOARD_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Small enough for two on any machine, large enough for the tiny guest.
const PROVIDER: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_memory = \"512M\"\noffer_cpus = 1\n";

#[derive(clap::Args)]
pub struct DemoArgs {
    /// The guest's bundle, as built by 'make image-tiny'
    #[arg(long, value_name = "DIR", default_value = "out/images/tiny")]
    image: PathBuf,
    /// Keep the nodes' homes (in /tmp) for a look at their logs
    #[arg(long)]
    keep: bool,
}

pub fn run(_context: &Context, args: &DemoArgs) -> Outcome {
    if !args.image.join("manifest.json").exists() {
        let fault = Fault::new(ErrorCode::NoSuchImage, format!("no guest bundle in {}", args.image.display()));
        return Err(fault.hint("'make demo' builds it; --image names another").into());
    }
    let mut stage = Stage::new(args.keep)?;
    let result = stage.play(&args.image);
    stage.end(result)?;
    Ok(0)
}

/// The demo's share of the machine: homes and the nodes on them.
struct Stage {
    binary: PathBuf,
    root: PathBuf,
    nodes: Vec<(PathBuf, Child)>,
    keep: bool,
    began: Instant,
}

impl Stage {
    fn new(keep: bool) -> Result<Self, Fault> {
        let binary = std::env::current_exe().map_err(|error| Fault::internal(format!("no path of my own: {error}")))?;
        // Short: libvirt puts long socket names below a home.
        let root = PathBuf::from(format!("/tmp/gn-demo-{}", std::process::id()));
        std::fs::create_dir(&root).map_err(|error| node::config::io("create", &root, &error))?;
        Ok(Stage { binary, root, nodes: Vec::new(), keep, began: Instant::now() })
    }

    fn play(&mut self, image: &Path) -> Result<(), Fault> {
        self.say("three nodes: an observer and two providers");
        let observer = self.node("o", "", &[])?;
        let status = self.json(&observer, &["node", "status"])?;
        let via = status["listen_addrs"][0].as_str().unwrap_or_default().to_owned();
        for (name, country, price) in [("alpha", "DE", "0.01"), ("beta", "NL", "0.02")] {
            let home = self.home(&name[..1])?;
            self.output(&home, &["image", "import", &image.to_string_lossy()], Stdio::piped())?;
            let config = format!(
                "{PROVIDER}name = \"{name}\"\ncountry = \"{country}\"\nprice_per_hour = \"{price}\"\nprepaid = false\n"
            );
            self.node(&name[..1], &config, &["--provide", "--bootstrap", &via])?;
        }
        self.say("waiting for both adverts on the observer's board");
        self.until("two providers on the board", BOARD_DEADLINE, |stage| {
            let board = stage.json(&observer, &["provider", "list"]).ok()?;
            (board.as_array()?.len() == 2).then_some(())
        })?;
        self.show(&observer, &["provider", "list"])?;

        let tenant = self.home("r")?;
        self.say("a requestor without a node of its own rents a VM");
        let join = ["--bootstrap", via.as_str(), "--network", "demo"];
        self.show(&tenant, &[&join[..], &["vm", "list"]].concat())?;
        let web = ["--json", "vm", "create", "web", "--image", "tiny", "--memory", "256M", "--disk", "1G"];
        let create = [&join[..], &web].concat();
        println!("$ golemnode {}", create.join(" "));
        let vm = parse(&self.output(&tenant, &create, Stdio::inherit())?)?;
        self.show(&tenant, &["vm", "list"])?;
        self.say("over ssh through the mesh, the host key pinned before the first contact");
        let told = self.show(&tenant, &["vm", "ssh", "web", "--", "uname -a; hostname"])?;
        if !told.lines().any(|line| line.trim() == "web") {
            return Err(Fault::internal("the guest does not answer to its name"));
        }
        self.say("giving it back");
        self.show(&tenant, &["--yes", "vm", "destroy", "web"])?;
        self.show(&tenant, &["vm", "list"])?;
        self.nothing_left()?;
        timeline(&vm["timings_ms"]);
        Ok(())
    }

    /// Neither a disk nor a process of the guest, and no domain that libvirt still knows.
    fn nothing_left(&self) -> Result<(), Fault> {
        for home in ["a", "b"].map(|name| self.root.join(name)) {
            let count = |dir: PathBuf| std::fs::read_dir(dir).map(|dir| dir.flatten().count()).unwrap_or(0);
            let disks = count(home.join("vms"));
            let domains = std::fs::read_dir(home.join("libvirt/etc/qemu"))
                .map(|dir| dir.flatten().filter(|entry| entry.path().extension() == Some(OsStr::new("xml"))).count())
                .unwrap_or(0);
            if disks + domains > 0 {
                return Err(Fault::internal(format!(
                    "{disks} disks and {domains} domains are left in {}",
                    home.display()
                )));
            }
        }
        let guests = Command::new("pgrep").args(["-f", &format!("qemu-system.*{}", self.root.display())]).output();
        let guests = guests.map(|output| String::from_utf8_lossy(&output.stdout).lines().count()).unwrap_or(0);
        if guests > 0 {
            return Err(Fault::internal(format!("{guests} guests still run")));
        }
        self.say("nothing is left: no domain, no disk, no process");
        Ok(())
    }

    /// Stops everything, whatever has happened.
    fn end(mut self, result: Result<(), Fault>) -> Result<(), Fault> {
        let mut stopped = Ok(());
        let tenant = self.root.join("r");
        if tenant.join("api.sock").exists() {
            stopped = self.output(&tenant, &["node", "stop"], Stdio::piped()).map(drop);
        }
        for (home, mut child) in std::mem::take(&mut self.nodes).into_iter().rev() {
            let ended = self.output(&home, &["node", "stop"], Stdio::piped()).map(drop);
            if ended.is_err() {
                // It did not listen; the demo must not leave it.
                let _ = child.kill();
            }
            let _ = child.wait();
            stopped = stopped.and(ended);
        }
        if self.keep || result.is_err() {
            self.say(&format!("the homes and logs are kept in {}", self.root.display()));
        } else {
            let removed = std::fs::remove_dir_all(&self.root);
            stopped = stopped.and(removed.map_err(|error| node::config::io("remove", &self.root, &error)));
        }
        result.and(stopped)
    }

    fn say(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.began.elapsed().as_secs_f64());
    }

    fn home(&self, name: &str) -> Result<PathBuf, Fault> {
        let home = self.root.join(name);
        std::fs::create_dir_all(&home).map_err(|error| node::config::io("create", &home, &error))?;
        Ok(home)
    }

    fn node(&mut self, name: &str, config: &str, args: &[&str]) -> Result<PathBuf, Fault> {
        let home = self.home(name)?;
        let file = home.join("config.toml");
        std::fs::write(&file, config).map_err(|error| node::config::io("write", &file, &error))?;
        let log = home.join("node.log");
        let log = std::fs::File::create(&log).map_err(|error| node::config::io("write", &log, &error))?;
        let run = ["--network", "demo", "node", "run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
        let mut command = self.command(&home);
        let child = command.args(run).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| Fault::internal(format!("cannot start a node: {error}")))?;
        self.nodes.push((home.clone(), child));
        self.until("the node answers", NODE_DEADLINE, |stage| {
            let up = home.join("api.sock").exists();
            up.then(|| stage.json(&home, &["node", "status"]).ok()).flatten().map(drop)
        })?;
        Ok(home)
    }

    fn until(&self, what: &str, patience: Duration, mut look: impl FnMut(&Self) -> Option<()>) -> Result<(), Fault> {
        let deadline = Instant::now() + patience;
        while look(self).is_none() {
            if Instant::now() > deadline {
                return Err(Fault::new(ErrorCode::Timeout, format!("not within {patience:?}: {what}")));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        // The demo is this machine's alone: it neither looks for others nor is found by them.
        command.arg("--home").arg(home).env_remove("GOLEMNODE_HOME").env("GOLEMNODE_MDNS", "false");
        // A demonstration leaves the firewall of this machine alone.
        command.env("GOLEMNODE_EGRESS", "none");
        command
    }

    fn output(&self, home: &Path, args: &[&str], stderr: Stdio) -> Result<String, Fault> {
        let output = self.command(home).args(args).stdin(Stdio::null()).stderr(stderr).output();
        let output = output.map_err(|error| Fault::internal(format!("cannot run golemnode: {error}")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let fault = Fault::internal(format!("'golemnode {}' failed", args.join(" ")));
            return Err(if why.is_empty() { fault } else { fault.hint(why) });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn json(&self, home: &Path, args: &[&str]) -> Result<Value, Fault> {
        parse(&self.output(home, &[&["--json"], args].concat(), Stdio::piped())?)
    }

    fn show(&self, home: &Path, args: &[&str]) -> Result<String, Fault> {
        println!("$ golemnode {}", args.join(" "));
        let told = self.output(home, args, Stdio::inherit())?;
        print!("{told}");
        Ok(told)
    }
}

fn parse(text: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::internal(format!("an answer that is no JSON: {error}")))
}

fn timeline(timings: &Value) {
    println!("timeline of the create:");
    for stage in ["discover", "quote", "lease", "provision", "boot", "total"] {
        println!("  {stage:<10}{:>8} ms", timings[stage].as_u64().unwrap_or_default());
    }
}
