//! `make hostile-full`: malformed frames by the million, over real connections, against a node that is a process of its
//! own, while honest peers ask it things. Prints what it measured, and fails when a goal is missed.
use protocol::PeerId;
use protocol::names::Network;
use serde_json::{Value, json};
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tests::hand::attack::{self, Attack, CONNECTIONS};
use tests::hand::frames::Target;
use tests::hand::honest::{Asked, Honest, asking, resident};
use tests::{Home, Node};

const NETWORK: &str = "hostile";
const FRAMES: u64 = 1_000_000;
/// Honest peers: enough questions for a p99, each peer at a rate that no node minds.
const HONEST: u8 = 6;
/// How long they ask before there is any attack, and what the node is given to calm down after one.
const BEFORE: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_millis(100);
/// The goals.
const MOST_GROWTH: u64 = 32 << 20;
const MOST_SLOWDOWN: f64 = 1.5;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("attack") => attack(&args[1..]).map(|()| true),
        _ => defend(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The attacker's own process: `attack TARGET ADDR FRAMES SEED`.
#[tokio::main]
async fn attack(args: &[String]) -> Result<()> {
    let [target, addr, frames, seed] = args else { return Err("attack TARGET ADDR FRAMES SEED".into()) };
    let target = Target::ALL.into_iter().find(|known| known.name() == target).ok_or("no such protocol")?;
    let outcome = attack::run(Attack {
        addr: addr.clone(),
        network: NETWORK.into(),
        target,
        frames: frames.parse()?,
        connections: CONNECTIONS,
        seed: seed.parse()?,
    })
    .await;
    let answers = json!({
        "frames": outcome.frames, "connections": outcome.connections, "refused": outcome.refused_connections,
        "answers": outcome.answers,
    });
    println!("{answers}");
    Ok(())
}

struct Row {
    target: Target,
    said: Value,
    took: Duration,
    asked: Asked,
    peak: u64,
}

#[tokio::main]
async fn defend(args: &[String]) -> Result<bool> {
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let frames: u64 = value("--frames").map_or(Ok(FRAMES), |text| text.parse())?;
    let wanted = |target: &Target| value("--only").is_none_or(|only| only.split(',').any(|name| name == target.name()));
    let home = Home::new();
    let node = home.node(&["--provide", "--backend", "memory", "--network", NETWORK]);
    let (addr, id): (String, PeerId) = (node.addr(), node.peer_id().parse().map_err(|fault| format!("{fault}"))?);
    let network: Network = NETWORK.parse().map_err(|fault| format!("{fault}"))?;
    let mut honest = Vec::new();
    for secret in 1..=HONEST {
        honest.push(Honest::join(secret, &addr, id, &network).await);
    }
    // What is made once (threads, tables, buffers) is made before anything is measured.
    let (honest, _) = asking(honest, tokio::time::sleep(CALM)).await?;
    let (mut honest, before) = asking(honest, tokio::time::sleep(BEFORE)).await?;
    let rest = resident(node.pid());
    let (p50, p99) = (before.percentile(50.0), before.percentile(99.0));
    println!("before: p50 {p50:.2} ms, p99 {p99:.2} ms of {} questions; {} MiB", before.took.len(), rest >> 20);
    println!(
        "{:<9} {:>9} {:>6} {:>9} {:>7} {:>10} {:>8} {:>8} {:>7} {:>7}",
        "protocol", "frames", "s", "frames/s", "keys", "questions", "p50 ms", "p99 ms", "p99 x", "MiB +"
    );
    let (mut good, mut growth) = (before.failed.is_empty(), 0);
    for (number, target) in Target::ALL.into_iter().filter(wanted).enumerate() {
        let row;
        (honest, row) = under_attack(honest, &node, &addr, target, frames, number as u64 + 1).await?;
        growth = growth.max(row.peak.saturating_sub(rest));
        good &= row.print(&before, rest);
        (honest, _) = asking(honest, tokio::time::sleep(CALM)).await?;
    }
    println!("most that it grew: {:.1} MiB (goal: 32)", growth as f64 / f64::from(1 << 20));
    // What became of the node is said whatever was missed before.
    Ok(is_well(&home, &node) && good && growth <= MOST_GROWTH)
}

async fn under_attack(
    honest: Vec<Honest>,
    node: &Node<'_>,
    addr: &str,
    target: Target,
    frames: u64,
    seed: u64,
) -> Result<(Vec<Honest>, Row)> {
    let began = Instant::now();
    let mut attacker = attacker(target, addr, frames, seed)?;
    let mut peak = 0;
    let watch = async {
        loop {
            tokio::time::sleep(LOOK).await;
            peak = peak.max(resident(node.pid()));
            if !matches!(attacker.try_wait(), Ok(None)) {
                return;
            }
        }
    };
    let (honest, asked) = asking(honest, watch).await?;
    let mut said = String::new();
    attacker.stdout.take().ok_or("no output")?.read_to_string(&mut said)?;
    let said = serde_json::from_str(&said).map_err(|error| format!("the attacker ended: {error}"))?;
    Ok((honest, Row { target, said, took: began.elapsed(), asked, peak }))
}

/// It has what others leave of this machine: an attacker's own work is done elsewhere.
fn attacker(target: Target, addr: &str, frames: u64, seed: u64) -> Result<Child> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(std::env::current_exe()?).args(["attack", target.name(), addr]);
    command.args([frames.to_string(), seed.to_string()]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

impl Row {
    fn print(&self, before: &Asked, rest: u64) -> bool {
        let (frames, took) = (self.said["frames"].as_u64().unwrap_or(0), self.took.as_secs_f64());
        let (p50, p99) = (self.asked.percentile(50.0), self.asked.percentile(99.0));
        let ratio = p99 / before.percentile(99.0);
        println!(
            "{:<9} {frames:>9} {took:>6.0} {:>9.0} {:>7} {:>10} {p50:>8.2} {p99:>8.2} {ratio:>7.2} {:>7.1}",
            self.target.name(),
            frames as f64 / took,
            self.said["connections"].as_u64().unwrap_or(0),
            self.asked.took.len(),
            self.peak.saturating_sub(rest) as f64 / f64::from(1 << 20),
        );
        println!("          {}", self.said["answers"]);
        if !self.asked.failed.is_empty() {
            let example = &self.asked.failed[0];
            println!("          {} honest questions were not answered, such as: {example}", self.asked.failed.len());
        }
        self.asked.failed.is_empty() && ratio <= MOST_SLOWDOWN
    }
}

fn is_well(home: &Home, node: &Node) -> bool {
    let log = node.log();
    let panics = log.lines().filter(|line| line.contains("panicked")).count();
    let status = home.json(&["node", "status"]);
    println!("{panics} panics; it is up for {} s and has {} peers", status["uptime_s"], status["peers"]);
    panics == 0
}
