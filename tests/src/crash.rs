//! `kill -9` of a provider with real guests, at any moment of what is done to them; and what is there after its restart,
//! judged by what the hypervisor runs, what lies on its disk, and what the tenant counts on.
use crate::{Home, Node, PATIENCE, eventually};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PROVIDER: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_cpus = 4\noffer_memory = \"2G\"\nmax_vms = 2\n";
const TINY: [&str; 9] = ["--image", "tiny", "--cpus", "1", "--memory", "128M", "--disk", "1G", "--no-wait"];
/// After a restart: until nothing is leaked or lost.
pub const MENDED: Duration = Duration::from_secs(5);
/// From a command to the kill, in milliseconds: a guest is made in two seconds, and boots in seven.
const SOONEST: f64 = 20.0;
const LATEST: f64 = 6_000.0;
/// From when the guest's folder is there to the kill: disk and seed are made within some tens of them.
const SOONEST_MADE: f64 = 0.2;
const LATEST_MADE: f64 = 100.0;
/// The ISO of its files is made within some milliseconds.
const LATEST_SEED: f64 = 20.0;
/// Where the files of a guest's seed are gathered, and what is made of them.
const SEED: [&str; 2] = [".seed-", "seed.iso"];
const LOOK: Duration = Duration::from_micros(100);

/// What a kill met, and how it ended.
#[derive(Debug)]
pub struct Killed {
    pub command: &'static str,
    pub moment: Moment,
    /// What was under way, by the journal: a job and its step each.
    pub steps: Vec<String>,
    /// From the node's start until hypervisor, disk and tenant agreed.
    pub mended: Duration,
    /// What they still did not agree on when that time was over.
    pub amiss: Option<String>,
}

/// What a kill waits for, from the coarsest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Command,
    /// A new guest's folder is there.
    Folder,
    /// Its seed is being made.
    Seed,
}

impl Mark {
    const ALL: [(Mark, &str); 3] = [(Mark::Command, "command"), (Mark::Folder, "folder"), (Mark::Seed, "seed")];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(mark, _)| *mark == self).map_or("command", |(_, name)| name)
    }
    /// In files of before there were three: whether the folder was waited for.
    fn of(killed: &Value) -> Mark {
        let named = Self::ALL.into_iter().find(|(_, name)| killed["mark"] == *name);
        let made = if killed["made"] == true { Mark::Folder } else { Mark::Command };
        named.map_or(made, |(mark, _)| mark)
    }
    fn range(self) -> (f64, f64) {
        match self {
            Mark::Command => (SOONEST, LATEST),
            Mark::Folder => (SOONEST_MADE, LATEST_MADE),
            Mark::Seed => (SOONEST_MADE, LATEST_SEED),
        }
    }
}

/// When it was killed: so long after the mark.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub mark: Mark,
    pub after: Duration,
}

impl Moment {
    /// Any, evenly over the orders of magnitude.
    fn any(dice: &mut ChaCha8Rng, command: &str) -> Moment {
        let mark = match dice.next_u32() % 4 {
            0 if command == "create" => Mark::Folder,
            1 if command == "create" => Mark::Seed,
            _ => Mark::Command,
        };
        let (soonest, latest) = mark.range();
        let after = Duration::from_secs_f64(soonest * f64::powf(latest / soonest, share(dice)) / 1000.0);
        Moment { mark, after }
    }
    /// A quarter sooner or later, as two guests are never made in the same time.
    fn near(self, dice: &mut ChaCha8Rng) -> Moment {
        Moment { after: self.after.mul_f64(0.75 + 0.5 * share(dice)), ..self }
    }
    fn is_reached(self, provider: &Home, before: &BTreeSet<String>) -> bool {
        let seed = |id: &String| {
            let files = std::fs::read_dir(provider.path().join("vms").join(id)).into_iter().flatten().flatten();
            files
                .map(|file| file.file_name())
                .any(|file| SEED.iter().any(|name| file.to_string_lossy().starts_with(name)))
        };
        match self.mark {
            Mark::Command => true,
            Mark::Folder => !disks(provider).is_subset(before),
            Mark::Seed => disks(provider).difference(before).any(seed),
        }
    }
    fn await_it(self, provider: &Home, before: &BTreeSet<String>) {
        let deadline = Instant::now() + Duration::from_secs_f64(LATEST / 1000.0);
        while !self.is_reached(provider, before) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        std::thread::sleep(self.after);
    }
}

impl Killed {
    pub fn to_json(&self) -> Value {
        let mended_ms = self.mended.as_millis() as u64;
        json!({
            "command": self.command, "mark": self.moment.mark.name(), "after_us": self.moment.after.as_micros() as u64,
            "steps": self.steps, "mended_ms": mended_ms, "amiss": self.amiss,
        })
    }
}

/// When to kill: at any moment of anything, or where a step was met before that was met least of all.
#[derive(Default)]
pub struct Aims {
    met: BTreeMap<String, Vec<(String, Moment)>>,
    /// How often each was aimed at: one that is hard to meet does not keep the others waiting.
    aimed: BTreeMap<String, usize>,
}

impl Aims {
    pub fn learn(&mut self, killed: &Value) {
        let (command, after) = (killed["command"].as_str(), killed["after_us"].as_u64());
        let Some((command, after)) = command.zip(after) else { return };
        let moment = Moment { mark: Mark::of(killed), after: Duration::from_micros(after) };
        for step in killed["steps"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.met.entry(step.to_owned()).or_default().push((command.to_owned(), moment));
        }
    }
    /// A command, and how long after it, where that is known.
    fn next(&mut self, dice: &mut ChaCha8Rng) -> Option<(String, Option<Moment>)> {
        if dice.next_u32().is_multiple_of(3) {
            return None;
        }
        let aimed = |step: &String| self.aimed.get(step).copied().unwrap_or(0);
        let (rarest, met) = self.met.iter().min_by_key(|(step, met)| met.len() + aimed(step))?;
        *self.aimed.entry(rarest.clone()).or_default() += 1;
        let command = command_of(rarest);
        // What another command met was left to it by an earlier kill. The nearest mark says best when the step is done.
        let own = || met.iter().filter(|(by, _)| by == command).map(|(_, moment)| *moment);
        let nearest = own().map(|moment| moment.mark).max();
        let moments: Vec<Moment> = own().filter(|moment| Some(moment.mark) == nearest).collect();
        let moment = (!moments.is_empty()).then(|| moments[dice.next_u32() as usize % moments.len()].near(dice));
        Some((command.to_owned(), moment))
    }
}

/// The command that makes such a job.
fn command_of(step: &str) -> &str {
    match step.split(':').next().unwrap_or(step) {
        "provision" => "create",
        "remove" => "destroy",
        job => job,
    }
}

fn share(dice: &mut ChaCha8Rng) -> f64 {
    f64::from(dice.next_u32()) / f64::from(u32::MAX)
}

/// One provider and one tenant, and so many kills; each is told of as it ends. At last everything is given back, and
/// nothing may be left.
pub fn suffer(bundle: &Path, seed: u64, kills: u32, aims: &mut Aims, mut told: impl FnMut(&Killed)) {
    let (provider, tenant) = (Home::new(), Home::new());
    provider.config(PROVIDER);
    provider.import(bundle);
    let mut node = start(&provider);
    let _tenant = tenant.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let (mut names, mut seen) = (0, 0);
    for _ in 0..kills {
        let aim = aims.next(&mut dice);
        let there = disks(&provider);
        let wanted = aim.as_ref().map(|(command, _)| command.as_str());
        let (command, mut child) = act(&tenant, &mut dice, &mut names, wanted);
        let aimed = aim.filter(|(wanted, _)| *wanted == command).and_then(|(_, moment)| moment);
        let moment = aimed.unwrap_or_else(|| Moment::any(&mut dice, command));
        let before = counted_on(&tenant);
        moment.await_it(&provider, &there);
        node.kill();
        let began = Instant::now();
        node = start(&provider);
        let amiss = loop {
            match agree(&provider, &tenant, &before) {
                Ok(()) => break None,
                Err(why) if began.elapsed() > MENDED => break Some(why),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let mended = began.elapsed();
        tenant.run(&["--bootstrap", &node.addr(), "vm", "list"]).ok();
        let steps = interrupted(&provider, &mut seen);
        let killed = Killed { command, moment, steps, mended, amiss };
        aims.learn(&killed.to_json());
        told(&killed);
        // A command whose provider died says so within its own deadlines.
        eventually("the command ends", 2 * PATIENCE, || child.try_wait().expect("own child"));
    }
    let last = counted_on(&tenant);
    eventually("what runs is what the tenant has", PATIENCE, || agree(&provider, &tenant, &last).ok());
    for vm in tenant.json(&["vm", "list"]).as_array().into_iter().flatten() {
        tenant.run(&["vm", "destroy", vm["name"].as_str().expect("a name"), "--yes"]);
    }
    eventually("everything is given back", PATIENCE, || {
        (guests(&provider).is_empty() && disks(&provider).is_empty()).then_some(())
    });
}

fn start(home: &Home) -> Node<'_> {
    home.node(&["--provide", "--network", "test"])
}

/// So that an aimed command does something: there is room for a guest, or one that runs, or is off. Which one.
fn make_ready(tenant: &Home, command: &str, live: &mut Vec<String>) -> Option<String> {
    let one = live.last()?.clone();
    let settle = || {
        // One that is being made is waited for, and one that is off is started: that returns when it runs.
        tenant.run(&["vm", "start", &one]);
        tenant.run(&["vm", "wait", &one, "running", "--timeout", "20s"])
    };
    match command {
        "create" if live.len() > 1 => {
            tenant.run(&["vm", "destroy", &one, "--yes"]);
            live.pop();
        }
        "stop" | "restart" => drop(settle()),
        "start" => {
            settle();
            tenant.run(&["vm", "stop", &one, "--force"]);
        }
        _ => {}
    }
    Some(one)
}

/// What is done, and to it; with `wanted` that, where there is a guest for it.
fn act(tenant: &Home, dice: &mut ChaCha8Rng, names: &mut u32, wanted: Option<&str>) -> (&'static str, Child) {
    let vms = tenant.json(&["vm", "list"]);
    let name_of = |vm: &Value| vm["name"].as_str().map(str::to_owned);
    let mut live: Vec<String> = vms.as_array().into_iter().flatten().filter_map(name_of).collect();
    let ready = wanted.and_then(|command| make_ready(tenant, command, &mut live));
    let any = dice.next_u32() % 10;
    let what = match wanted {
        Some("create") => 0,
        // With one guest alone this would make another.
        Some("destroy") => 4,
        Some("stop") => 5,
        Some("restart") => 7,
        Some("start") => 8,
        _ => any,
    };
    if live.is_empty() || live.len() < 2 && what < 4 {
        *names += 1;
        let name = format!("vm-{names}");
        let mut args = vec!["vm", "create", &name];
        args.extend(TINY);
        return ("create", spawn(tenant, &args));
    }
    let picked = live[dice.next_u32() as usize % live.len()].clone();
    let name = ready.unwrap_or(picked);
    match what {
        0..=4 => ("destroy", spawn(tenant, &["vm", "destroy", &name, "--yes"])),
        5 | 6 => ("stop", spawn(tenant, &["vm", "stop", &name, "--force"])),
        7 => ("restart", spawn(tenant, &["vm", "restart", &name])),
        _ => ("start", spawn(tenant, &["vm", "start", &name])),
    }
}

fn spawn(home: &Home, args: &[&str]) -> Child {
    home.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("golemnode runs")
}

/// The leases that the tenant has, and what it knows of each.
fn counted_on(tenant: &Home) -> BTreeMap<String, String> {
    let vms = tenant.json(&["vm", "list"]);
    let row = |vm: &Value| Some((vm["lease"]["id"].as_str()?.to_owned(), vm["status"].as_str()?.to_owned()));
    vms.as_array().into_iter().flatten().filter_map(row).collect()
}

/// The guests of this home that run: lease ids, one for each process.
fn guests(home: &Home) -> Vec<String> {
    processes(home).into_iter().map(|(_, id)| id).collect()
}

/// Of guests of this home: process and lease ids.
pub fn processes(home: &Home) -> Vec<(u32, String)> {
    let root = format!("{}/", home.path().display());
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(words) = std::fs::read(process.path().join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains("qemu-system") && words.contains(&root) {
            let id = words.split("guest=golemnode-").nth(1).map(|rest| rest.chars().take(32).collect());
            let pid = process.file_name().to_str().and_then(|pid| pid.parse().ok());
            found.extend(pid.zip(id));
        }
    }
    found
}

fn disks(home: &Home) -> BTreeSet<String> {
    let names = std::fs::read_dir(home.path().join("vms")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What runs and what lies on the disk is of a lease that the tenant has; once; and what it had running still runs.
fn agree(provider: &Home, tenant: &Home, before: &BTreeMap<String, String>) -> Result<(), String> {
    let (guests, disks, now) = (guests(provider), disks(provider), counted_on(tenant));
    let once: BTreeSet<&String> = guests.iter().collect();
    if once.len() != guests.len() {
        return Err(format!("doubled: {guests:?}"));
    }
    if let Some(id) = once.into_iter().chain(&disks).find(|id| !now.contains_key(*id)) {
        return Err(format!("leaked: {id}, of {now:?}"));
    }
    let lost = |(id, status): (&String, &String)| {
        status == "running" && now.get(id).is_some_and(|now| now == "running") && !guests.contains(id)
    };
    match before.iter().find(|(id, status)| lost((id, status))) {
        Some((id, _)) => Err(format!("lost: {id}")),
        None => Ok(()),
    }
}

/// What the journal says was under way.
fn interrupted(provider: &Home, seen: &mut u64) -> Vec<String> {
    let lines = provider.run(&["--json", "events", "--after", &seen.to_string(), "--limit", "1000"]).ok().stdout();
    let mut steps = Vec::new();
    for event in lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        *seen = event["id"].as_u64().unwrap_or(*seen).max(*seen);
        let message = event["message"].as_str().unwrap_or_default();
        let Some((job, step)) = message.split_once(" was under way (") else { continue };
        let job = job.strip_prefix("the ").and_then(|rest| rest.split(' ').next()).unwrap_or(job);
        let step = step.split(')').next().unwrap_or(step);
        steps.push(format!("{job}: {step}"));
    }
    steps
}
