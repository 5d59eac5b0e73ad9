//! `golemnode node …`: run it, and see what it does.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{dash, fields, some_of, table};
use clap::{Args, Subcommand};
use node::api::client::{self, Client};
use node::api::types::{NodeStatus, PeerView, RelayStatus};
use node::config::{Home, NodeConfig, NodeLock, Settings};
use protocol::names::BackendKind;
use protocol::units::Millis;
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The node's own deadline for stopping is 10 s.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const STOP_POLL: Duration = Duration::from_millis(20);

#[derive(Subcommand)]
pub enum NodeCommand {
    /// Run a node until Ctrl-C
    Run(RunArgs),
    /// Print this node's peer id
    Id,
    /// Show what the node is, whom it knows and what it offers
    Status,
    /// List the nodes it is connected to
    Peers,
    /// Print what another node needs to join this one's mesh
    Invite,
    /// Stop the node that runs on this home
    Stop,
}

#[derive(Args)]
pub struct RunArgs {
    /// Offer virtual machines on this one
    #[arg(long)]
    provide: bool,
    /// What makes the machines: libvirt, or memory (simulated ones, for tests)
    #[arg(long, value_name = "B", requires = "provide")]
    backend: Option<BackendKind>,
    /// Listen here, such as /ip4/0.0.0.0/tcp/4001; may be repeated
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Do not look for nodes on the local network
    #[arg(long)]
    no_mdns: bool,
    /// Leave after so long without a request, a tunnel or an unfinished release
    #[arg(long, value_name = "DURATION", hide = true)]
    idle_exit: Option<Millis>,
    /// Outlive the command and the terminal that this was started from
    #[arg(long, hide = true)]
    detached: bool,
}

pub fn run(context: &Context, command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::Run(args) => up(context, args),
        NodeCommand::Id => id(context),
        NodeCommand::Status => {
            let status = context.node().and_then(|node| context.block_on(async { node.status().await }))?;
            context.show(&status, || status_text(&status))
        }
        NodeCommand::Peers => {
            let peers = context.node().and_then(|node| context.block_on(async { node.peers().await }))?;
            context.show(&peers, || peers_text(&peers))
        }
        NodeCommand::Invite => invite(context),
        NodeCommand::Stop => stop(context),
    }
}

pub fn up(context: &Context, args: RunArgs) -> Outcome {
    if args.detached {
        // Fails only for the leader of a process group, which is detached enough.
        let _ = rustix::process::setsid();
    }
    let home = context.home()?;
    home.create()?;
    let mut settings = Settings::load(&home)?;
    if let Some(network) = &context.global.network {
        settings.network = network.clone();
    }
    if !context.global.bootstrap.is_empty() {
        settings.bootstrap = context.global.bootstrap.clone();
    }
    if !args.listen.is_empty() {
        settings.listen = args.listen;
    }
    if let Some(backend) = args.backend {
        settings.provider.backend = backend;
    }
    settings.mdns &= !args.no_mdns;
    let mut config = NodeConfig::new(home.clone(), settings, args.provide)?;
    config.idle_exit = args.idle_exit.map(Millis::as_std);
    log_to_stderr(context);

    let (peer, quiet) = (config.identity.peer_id(), context.is_quiet());
    let ready = move || {
        if !quiet {
            eprintln!("node {peer} runs on {}; Ctrl-C stops it", home.root().display());
        }
    };
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = built.map_err(|error| Fault::internal(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (told, told_to) = (told_to_stop(args.detached)?, stop.clone());
        tokio::spawn(async move {
            told.await;
            told_to.cancel();
        });
        node::run(config, stop, ready).await
    })?;
    Ok(0)
}

/// Watched from the call on, before the node can be asked anything. A detached one outlives the terminal that it was
/// started from: by default a hangup would end the process.
fn told_to_stop(detached: bool) -> Result<impl Future<Output = ()>, Fault> {
    let watch = |kind| signal(kind).map_err(|error| Fault::internal(format!("no signals: {error}")));
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                _ = hangup.recv() => if !detached { return },
            }
        }
    })
}

fn log_to_stderr(context: &Context) {
    let level = match (context.global.verbose, context.is_quiet()) {
        (_, true) => "error",
        // Kademlia warns whenever it is alone, which is how every mesh begins.
        (0, _) => "warn,libp2p_kad=error,node=info,backends=info",
        (1, _) => "info,node=debug,backends=debug",
        _ => "debug,node=trace,backends=trace",
    };
    let filter = EnvFilter::try_from_env("GOLEMNODE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let color = context.color_on_stderr();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    // Already set only when one process runs two nodes, which shares the log.
    let _ = log.try_init();
}

#[derive(Serialize)]
struct Id {
    peer_id: String,
}

/// Needs no node, only the key.
fn id(context: &Context) -> Outcome {
    let home = context.home()?;
    home.create()?;
    let id = Id { peer_id: home.identity()?.peer_id().to_string() };
    context.show(&id, || format!("{}\n", id.peer_id))
}

fn status_text(status: &NodeStatus) -> String {
    let provider = status.provider.as_ref();
    let advert = provider.map(|p| match (&p.reason, p.advertised) {
        (_, true) => "on the board".to_owned(),
        (Some(reason), false) => format!("none: {reason}"),
        (None, false) => "none".to_owned(),
    });
    fields(&[
        ("peer id", Some(status.peer_id.to_string())),
        ("version", Some(status.version.clone())),
        ("network", Some(status.network.clone())),
        ("roles", Some(some_of(&status.roles, 9))),
        ("listens on", Some(status.listen_addrs.join("\n             "))),
        ("reachability", Some(reachability(status))),
        ("reached at", Some(status.external_addrs.join("\n             ")).filter(|addrs| !addrs.is_empty())),
        ("relays", status.relay.as_ref().map(relayed)),
        ("peers", Some(status.peers.to_string())),
        ("board", Some(format!("{} adverts, {} shards", status.board.adverts, status.board.shards))),
        ("up", Some(Millis::secs(status.uptime_s).to_string())),
        ("advert", advert),
        ("backend", provider.map(|p| format!("{} ({}, egress {})", p.backend, p.isolation, p.egress))),
        ("offers", provider.map(|p| p.offer.to_string())),
        ("free", provider.map(|p| p.free.to_string())),
        ("leases", provider.map(|p| format!("{} of {}", p.leases, p.max_vms))),
        ("images", provider.map(|p| some_of(&p.images, 9))),
        ("price", provider.map(|p| format!("{} {}/h", p.price_per_hour, p.currency))),
    ])
}

pub fn reachability(status: &NodeStatus) -> String {
    match status.reachability_why.as_str() {
        "" => status.reachability.clone(),
        why => format!("{}: {why}", status.reachability),
    }
}

fn relayed(relay: &RelayStatus) -> String {
    let RelayStatus { reservations, circuits, bytes } = relay;
    format!("for {reservations} nodes, {circuits} connections, {} MiB", bytes >> 20)
}

fn peers_text(peers: &[PeerView]) -> String {
    let row = |peer: &PeerView| {
        vec![
            peer.peer_id.to_string(),
            peer.direction.clone(),
            peer.path.to_string(),
            dash(peer.latency_ms.map(|ms| format!("{ms} ms"))),
            Millis::secs(peer.connected_s).to_string(),
            dash(peer.agent.clone()),
            dash(peer.addrs.first()),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    table(&["PEER", "DIRECTION", "PATH", "LATENCY", "CONNECTED", "AGENT", "ADDRESS"], &rows)
}

#[derive(Serialize)]
struct Invitation {
    network: String,
    bootstrap: Vec<String>,
}

fn invite(context: &Context) -> Outcome {
    let status = context.node().and_then(|node| context.block_on(async { node.status().await }))?;
    let known: BTreeSet<String> = status.external_addrs.into_iter().chain(status.listen_addrs).collect();
    // Nobody on another machine reaches a loopback address, nor a link-local one; they serve when there is no other.
    let near = |addr: &String| ["/ip4/127.", "/ip6/::1/", "/ip6/fe80:"].iter().any(|start| addr.starts_with(start));
    let (local, open): (Vec<_>, Vec<_>) = known.into_iter().partition(near);
    let bootstrap = if open.is_empty() { local } else { open };
    let invitation = Invitation { network: status.network, bootstrap };
    context.show(&invitation, || {
        let addrs: String = invitation.bootstrap.iter().map(|addr| format!(" --bootstrap {addr}")).collect();
        format!("golemnode --network {}{addrs} node run\n", invitation.network)
    })
}

fn stop(context: &Context) -> Outcome {
    let home = context.home()?;
    let nobody = || Fault::new(ErrorCode::Unavailable, format!("no node runs on {}", home.root().display()));
    if !client::is_alive(&home) {
        return Err(nobody().hint("--home names another home").into());
    }
    let client = Client::new(&home);
    context.block_on(async { client.stop().await })?;
    // Only when its lock is free can the next one start.
    wait_for_end(&home)?;
    context.say("the node has stopped");
    Ok(0)
}

/// Until the home is nobody's.
pub fn wait_for_end(home: &Home) -> Result<(), Fault> {
    let deadline = Instant::now() + STOP_DEADLINE;
    while client::is_alive(home) || NodeLock::take(home).is_err() {
        if Instant::now() > deadline {
            let late = format!("the node did not stop within {} s", STOP_DEADLINE.as_secs());
            return Err(Fault::new(ErrorCode::Timeout, late));
        }
        std::thread::sleep(STOP_POLL);
    }
    Ok(())
}
