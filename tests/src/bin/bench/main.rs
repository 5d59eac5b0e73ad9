//! `make bench`: what the mesh, the tunnel and the node cost, each against what one would have without us, in turns
//! within one run. Prints what it measured, and for each goal whether it was met; a missed goal is no failure.
mod admission;
mod bare;
mod boot;
mod child;
mod copies;
mod idle;
mod overload;
mod provider;
mod restart;
mod stats;
mod streams;

use child::Child;
use node::config::{Home as NodeHome, NodeConfig, Settings};
use protocol::core::provider::OfferedImage;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use streams::Result;
use tests::noise::{Neighbours, Plan};
use tests::{Home, PATIENCE, eventually, guest};

const SECTIONS: [&str; 10] =
    ["create", "scp", "noise", "stream", "start", "memory", "admission", "requests", "restart", "overload"];
/// Fewer give no interval worth the name.
const PAIRS: usize = 10;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("role") => role(&args[1..]),
        _ => bench(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn role(args: &[String]) -> Result<()> {
    let arg = |n: usize| args.get(n).cloned().ok_or("an argument is missing");
    match arg(0)?.as_str() {
        "sink" => tokio::task::block_in_place(streams::sink),
        "bare-sink" => streams::bare_sink().await,
        "bare-exit" => streams::bare_exit(arg(1)?).await,
        "bare-entry" => streams::bare_entry(arg(1)?, arg(2)?).await,
        "mesh-sink" => streams::mesh_sink().await,
        "crowd" => idle::crowd(arg(1)?, arg(2)?).await,
        "requests" => tokio::task::block_in_place(admission::requests),
        "let" => tokio::task::block_in_place(|| restart::let_all(arg(1)?, arg(2)?)),
        "reconcile" => restart::reconcile(arg(1)?, arg(2)?).await,
        "libvirt" => tokio::task::block_in_place(|| idle::libvirt(arg(1)?)),
        "overload" => overload::crowd(arg(1)?).await,
        "provide" => provide(arg(1)?, arg(2)?).await,
        other => Err(format!("no role {other}").into()),
    }
}

/// A provider like any other, whose simulated guests all lead to one server.
async fn provide(home: String, endpoint: String) -> Result<()> {
    use backends::memory::{MemoryBackend, MemoryOptions};
    let home = NodeHome::find(Some(home.into()))?;
    home.create()?;
    let config = NodeConfig::new(home.clone(), Settings::load(&home)?, true)?;
    let image = "tiny".parse()?;
    let digest = MemoryOptions::digest_of("tiny");
    let offered = OfferedImage { digest, user: "root".parse()?, least_disk: protocol::units::DiskGib(1) };
    let backend = MemoryBackend::new(MemoryOptions { endpoint: Some(endpoint.parse()?), ..MemoryOptions::default() });
    let parts = node::ProviderParts {
        backend: Arc::new(backend),
        images: backends::images::ImageStore::new(home.images()),
        simulated: BTreeMap::from([(image, offered)]),
        settings: config.provider.clone(),
    };
    node::run_with(config, Some(parts), Default::default(), || child::say("ready")).await?;
    Ok(())
}

fn bench(args: &[String]) -> Result<()> {
    let (mut pairs, mut wanted) = (PAIRS, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--pairs" => pairs = args.next().ok_or("--pairs takes a number")?.parse()?,
            section if SECTIONS.contains(&section) => wanted.push(section),
            other => return Err(format!("'{other}' is none of --pairs N, {}", SECTIONS.join(", ")).into()),
        }
    }
    let wants = |section: &str| wanted.is_empty() || wanted.contains(&section);
    println!("{} CPUs; medians and, for ratios, geometric means with 95 % intervals", cpus());
    if cfg!(debug_assertions) {
        println!("A debug build: its figures mean nothing. 'make bench' builds for release.");
    }
    if wants("start") {
        idle::starts(2 * pairs)?;
    }
    if wants("memory") {
        idle::memory()?;
    }
    if wants("admission") {
        admission::run(pairs)?;
    }
    if wants("requests") {
        admission::growth()?;
    }
    if wants("restart") {
        restart::run()?;
        restart::guests(&guest("tiny").ok_or("the tiny guest is needed: 'make bench' builds it")?)?;
    }
    if wants("overload") {
        tokio::runtime::Runtime::new()?.block_on(overload::run())?;
    }
    if wants("stream") || wants("scp") {
        loopback(&wants, pairs)?;
    }
    if wants("create") || wants("scp") || wants("noise") {
        guests(&wants, pairs)?;
    }
    Ok(())
}

/// A tenant whose VMs `sink` and `sshd` lead, each over a provider of its own, to servers on loopback.
fn loopback(wants: &dyn Fn(&str) -> bool, pairs: usize) -> Result<()> {
    let (sink, sshd) = (Child::role("sink", &[])?, copies::Sshd::start()?);
    let (tenant, homes) = (Home::new(), [Home::new(), Home::new()]);
    let settings = "network = \"test\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nbackend = \"memory\"\n\
                    min_disk = \"1G\"\nmin_memory = \"128M\"\n";
    let mut providers = Vec::new();
    for (home, endpoint) in homes.iter().zip([&sink.said, &sshd.addr]) {
        home.config(settings);
        providers.push(Child::role("provide", &[&home.path().display().to_string(), endpoint])?);
    }
    let status: Vec<_> = homes.iter().map(|home| home.json(&["node", "status"])).collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let addrs: Vec<_> = status.iter().map(|status| text(&status["listen_addrs"][0])).collect();
    let _node = tenant.node(&["--network", "test", "--bootstrap", &addrs[0], "--bootstrap", &addrs[1]]);
    for (status, vm) in status.iter().zip(["sink", "sshd"]) {
        let peer = text(&status["peer_id"]);
        eventually("the provider is on the board", PATIENCE, || {
            let list = tenant.json(&["provider", "list", "--isolation", "any"]);
            list.as_array()?.iter().find(|one| one["peer_id"] == status["peer_id"]).map(|_| ())
        });
        let mut create = vec!["vm", "create", vm, "--isolation", "any", "--provider", &peer];
        create.extend(boot::TINY);
        tenant.json(&create);
    }
    if wants("stream") {
        streams::run(tenant.path(), "sink", &sink.said, pairs)?;
    }
    if wants("scp") {
        copies::loopback(tenant.path(), "sshd", &sshd, pairs)?;
    }
    Ok(())
}

fn guests(wants: &dyn Fn(&str) -> bool, pairs: usize) -> Result<()> {
    let bundle = guest("tiny").ok_or("the tiny guest is needed: 'make bench' builds it")?;
    let (provider, tenant) = (Home::new(), Home::new());
    // The same accelerator on both sides, and no wait for one that hangs.
    provider
        .config("min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_cpus = 4\noffer_memory = \"2G\"\naccel = \"tcg\"\n");
    provider.import(&bundle);
    let node = provider.node(&["--provide", "--network", "test"]);
    let _tenant = tenant.node(&["--network", "test", "--bootstrap", &node.addr()]);
    if wants("create") {
        boot::run(&tenant, &bundle, pairs)?;
    }
    if wants("noise") {
        noise(&provider, &tenant, pairs);
    }
    if wants("scp") {
        let mut create = vec!["vm", "create", "copy"];
        create.extend(boot::TINY);
        let vm = tenant.json(&create);
        let alias = vm["ssh"]["host_alias"].as_str().ok_or("no host alias")?;
        copies::guest(&tenant, "copy", alias, forwarded(&provider)?, pairs)?;
        tenant.run(&["vm", "destroy", "copy", "--yes"]).ok();
    }
    Ok(())
}

/// With 10 pairs, 240 round trips by ssh and 6000 to the API, half of them beside each noise.
fn noise(provider: &Home, tenant: &Home, pairs: usize) {
    let plan = Plan { pairs, ssh: 12, api: 25 };
    for outcome in Neighbours::new(provider, tenant).hear(&plan) {
        println!("noise: {outcome}");
        for percent in [50.0, 90.0, 99.0] {
            let beyond = outcome.beyond(2.0, 10.0, &[percent]);
            println!("  goal ≤ 2× or +10 ms, p{percent}: {}", verdict(beyond.is_empty()));
        }
    }
    for vm in ["loud", "quiet"] {
        tenant.run(&["vm", "destroy", vm, "--yes"]).ok();
    }
}

/// The port of this host that QEMU forwards to the guest's sshd: the only one that its process listens on.
fn forwarded(provider: &Home) -> Result<u16> {
    let pattern = format!("qemu-system.*{}", provider.path().display());
    let pid = String::from_utf8(Command::new("pgrep").args(["-f", &pattern]).output()?.stdout)?;
    let sockets = String::from_utf8(Command::new("ss").args(["-Htlnp"]).output()?.stdout)?;
    let ours = sockets.lines().find(|line| line.contains(&format!("pid={},", pid.trim())));
    let local = ours.and_then(|line| line.split_whitespace().nth(3)).ok_or("QEMU listens nowhere")?;
    Ok(local.rsplit(':').next().unwrap_or_default().parse()?)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A speed against another's: the more the better.
fn goal(what: &str, speed: &stats::Ratio, least: f64) {
    println!("  {what}: {speed}; goal ≥ {least:.2}×: {}", verdict(speed.mean >= least));
}
/// A cost: the less the better.
fn at_most(what: &str, value: f64, most: f64, unit: &str) {
    println!("  {what}: {value:.1} {unit}; goal ≤ {most:.0} {unit}: {}", verdict(value <= most));
}
fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
