//! Two hundred at once who want one of ten VMs, in a process of their own, while honest peers ask the provider things.
use crate::stats::percentile;
use crate::streams::Result;
use crate::{at_most, verdict};
use protocol::PeerId;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::crowd::{self, Outcome, Plan};
use tests::hand::honest::{Asked, Honest, asking};
use tests::{Home, bargain};

const SLOTS: usize = 10;
const TENANTS: u64 = 50;
const ASKERS: u64 = 150;
const NETWORK: &str = "test";
const HONEST: u8 = 6;
/// How long the honest ask before there is any crowd, and how long it stays.
const BEFORE: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(90);

pub async fn run() -> Result<()> {
    println!("\n## Overload: {TENANTS} who rent and {ASKERS} who only ask, for {SLOTS} VMs");
    let home = Home::new();
    home.config(&format!(
        "min_memory = \"128M\"\nmin_disk = \"1G\"\nmax_vms = {SLOTS}\noffer_cpus = {SLOTS}\n\
         default_image = \"{}\"\n",
        bargain::IMAGE
    ));
    let node = home.node(&["--provide", "--backend", "memory", "--network", NETWORK]);
    for n in 0..TENANTS {
        let tier = ["none", "free", "pro"][n as usize % 3];
        home.run(&["quota", "set", &bargain::key(n).peer_id().to_string(), "--tier", tier]).ok();
    }
    let (addr, id): (String, PeerId) = (node.addr(), node.peer_id().parse().map_err(|fault| format!("{fault}"))?);
    let mut honest = Vec::new();
    for secret in 1..=HONEST {
        honest.push(Honest::join(secret, &addr, id, &NETWORK.parse()?).await);
    }
    let (honest, before) = asking(honest, tokio::time::sleep(BEFORE)).await?;
    let mut said = Err("the crowd said nothing".into());
    let (_, beside) = asking(honest, async { said = crowd_of(addr).await }).await?;
    report(&said?, &before, &beside);
    Ok(())
}

/// It has what others leave of this machine: a crowd's own work is done elsewhere.
async fn crowd_of(addr: String) -> Result<Outcome> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(std::env::current_exe()?).args(["role", "overload", &addr]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await??;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A role: the crowd.
pub async fn crowd(addr: String) -> Result<()> {
    let plan = Plan { addr, network: NETWORK.parse()?, tenants: TENANTS, askers: ASKERS, lasts: LASTS, seed: 1 };
    println!("{}", serde_json::to_string(&crowd::run(plan, SLOTS).await)?);
    Ok(())
}

fn report(said: &Outcome, before: &Asked, beside: &Asked) {
    let of = |percent| percentile(&said.refused_ms, percent);
    println!("  {} VMs were had in {} s, {} at once at most", said.had, LASTS.as_secs(), said.most);
    println!("  refused: {:?}; {} without when to ask again", said.refused, said.without_retry);
    println!("  not answered: {:?}", said.unanswered);
    println!("  a refusal took {:.1} ms, in 99 of 100 {:.1}, at most {:.1}", of(50.0), of(99.0), of(100.0));
    println!("  exactly what fits is sold: {}", verdict(said.most == SLOTS));
    at_most("all are sold after", said.sold_out_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1000.0), 35.0, "s");
    at_most("the longest that one was free", said.idle_ms as f64 / 1000.0, 1.0, "s");
    at_most("the slowest refusal", of(100.0) / 1000.0, 1.0, "s");
    let [(p50, q50), (p99, q99)] = [50.0, 99.0].map(|percent| (before.percentile(percent), beside.percentile(percent)));
    println!("  honest peers before: p50 {p50:.2} ms, p99 {p99:.2} ms of {}", before.took.len());
    println!(
        "  honest peers beside: p50 {q50:.2} ms, p99 {q99:.2} ms of {}, {} not answered",
        beside.took.len(),
        beside.failed.len()
    );
    println!("  p99: {:.2}×; goal ≤ 1.50×: {}", q99 / p99, verdict(q99 / p99 <= 1.5));
}
