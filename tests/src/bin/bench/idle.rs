//! What a node costs that does nothing: how soon it listens, and what it holds with 50 peers connected.
use crate::child::Child;
use crate::stats::{median, millis, percentile};
use crate::streams::Result;
use node::mesh::{self, MeshConfig, MeshEvent};
use protocol::Keypair;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::{Home, PATIENCE, eventually};

pub const CONNECTIONS: usize = 50;
/// After the last peer has come: boards are asked for, buffers shrink.
const SETTLE: Duration = Duration::from_secs(20);

pub fn starts(runs: usize) -> Result<()> {
    let home = Home::new();
    let mut took = Vec::new();
    // The first makes the home, its key and its store, and is not counted.
    for run in 0..=runs {
        let mut command = home.command(&["node", "run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        let socket = home.path().join("api.sock");
        let started = Instant::now();
        let mut node = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // The mesh listens before the socket does.
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = node.try_wait()? {
                return Err(format!("the node ended: {status}").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if run > 0 {
            took.push(started.elapsed());
        }
        home.run(&["node", "stop"]).ok();
        node.wait()?;
    }
    let took = millis(&took);
    println!("\n## From exec to listening, {runs} runs");
    println!("  p50 {:.1} ms", median(&took));
    crate::at_most("p95", percentile(&took, 95.0), 50.0, "ms");
    Ok(())
}

/// A role: so many peers of one node, each a mesh of its own in this process.
pub async fn crowd(transport: String, addr: String) -> Result<()> {
    let mut meshes = Vec::new();
    for _ in 0..CONNECTIONS {
        let keypair = Keypair::from_secret(&node::config::random_32()?);
        let config = MeshConfig {
            listen: vec![listen(&transport).to_owned()],
            bootstrap: vec![addr.clone()],
            server: false,
            max_neighbours: 1,
            ..MeshConfig::new(keypair, "test".parse()?)
        };
        let (mesh, mut events) = mesh::spawn(config).await?;
        let answering = mesh.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let MeshEvent::Request { token, .. } = event {
                    let _ = answering.drop_request(token).await;
                }
            }
        });
        meshes.push(mesh);
    }
    crate::child::say("started");
    std::future::pending().await
}

/// A role: libvirt's embedded driver in a process that has nothing else.
pub fn libvirt(root: String) -> Result<()> {
    fs::create_dir_all(format!("{root}/etc"))?;
    fs::write(format!("{root}/etc/qemu.conf"), "stdio_handler = \"file\"\n")?;
    virt::event::event_register_default_impl()?;
    let connection = virt::connect::Connect::open(Some(&format!("qemu:///embed?root={root}")))?;
    // What the node asks too: the driver looks at its emulators only now.
    connection.capabilities()?;
    crate::child::say("open");
    loop {
        virt::event::event_run_default_impl()?;
    }
}

fn listen(transport: &str) -> &'static str {
    if transport == "quic" { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" }
}

/// Resident memory in MiB.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// With 50 peers connected, after things have settled: the median of ten looks.
fn with_company(home: &Home, args: &[&str], transport: &str) -> Result<f64> {
    let mut all = vec!["--network", "test", "--listen", listen(transport)];
    all.extend(args);
    let node = home.node(&all);
    let addrs = node.status()["listen_addrs"].as_array().cloned().unwrap_or_default();
    let wanted = if transport == "quic" { "quic" } else { "tcp" };
    let addr = addrs.iter().filter_map(|addr| addr.as_str()).find(|addr| addr.contains(wanted));
    let _crowd = Child::role("crowd", &[transport, addr.ok_or("it does not listen there")?])?;
    let connected = || node.status()["peers"].as_u64().unwrap_or(0) as usize;
    eventually("50 peers are connected", PATIENCE, || (connected() >= CONNECTIONS).then_some(()));
    let settled = Instant::now() + SETTLE;
    let mut looks = Vec::new();
    while Instant::now() < settled {
        std::thread::sleep(SETTLE / 20);
        looks.push(resident(node.pid())?);
    }
    if connected() < CONNECTIONS {
        return Err(format!("only {} peers stayed", connected()).into());
    }
    Ok(median(&looks[looks.len() / 2..]))
}

pub fn memory() -> Result<()> {
    println!("\n## Resident memory, idle, {CONNECTIONS} connections");
    for transport in ["tcp", "quic"] {
        let rss = with_company(&Home::new(), &[], transport)?;
        crate::at_most(&format!("a node that provides nothing ({transport})"), rss, 25.0, "MiB");
    }
    let root = Home::new();
    let bare = Child::role("libvirt", &[&root.path().join("libvirt").display().to_string()])?;
    let bare = resident(bare.pid())?;
    println!("  a bare connection of libvirt's embedded driver: {bare:.1} MiB");
    let provider = Home::new();
    provider.config("min_disk = \"1G\"\n");
    let rss = with_company(&provider, &["--provide"], "tcp")?;
    crate::at_most("a node that provides, above that (tcp)", rss - bare, 25.0, "MiB");
    Ok(())
}
