//! `golemnode provider …`: who offers virtual machines.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{bytes, dash, fields, seconds, some_of, table};
use clap::{Args, Subcommand, ValueEnum};
use node::api::types::{
    HostView, ProviderAction, ProviderQuery, ProviderReport, ProviderSort, ProviderView, VmUsageView,
};
use protocol::PeerId;
use protocol::money::Amount;
use protocol::names::{Arch, Country, ImageName, IsolationWanted};
use protocol::units::{DiskGib, MemoryMib};

#[derive(Subcommand)]
pub enum ProviderCommand {
    /// List the providers on the board that have so much free
    List(ListArgs),
    /// Show one provider
    Info { peer: PeerId },
    /// Show what this node offers, how busy its host is, and what its guests use
    Status,
    /// Let nothing new from now on, also after a restart; what is let goes on
    Drain,
    /// Let VMs again after a drain
    Resume,
}

#[derive(Args)]
pub struct ListArgs {
    /// With at least so many CPUs free
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// With at least so much memory free, such as 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemoryMib>,
    /// With at least so much disk free, such as 20G
    #[arg(long, value_name = "SIZE")]
    disk: Option<DiskGib>,
    /// In this country, by its ISO 3166-1 code
    #[arg(long, value_name = "CC")]
    country: Option<Country>,
    /// Of this architecture: x86_64 or aarch64
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// At most this price per hour
    #[arg(long, value_name = "P")]
    max_price: Option<Amount>,
    /// With this image
    #[arg(long, value_name = "I")]
    image: Option<ImageName>,
    /// vm: hardware and emulated guests; any: also containers and simulated ones
    #[arg(long, value_name = "vm|any")]
    isolation: Option<IsolationWanted>,
    /// What comes first
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    Price,
    Latency,
    Score,
}

pub fn run(context: &Context, command: ProviderCommand) -> Outcome {
    match command {
        ProviderCommand::List(args) => list(context, args),
        ProviderCommand::Info { peer } => {
            let view = context.node().and_then(|node| context.block_on(async { node.provider(peer).await }))?;
            context.show(&view, || info_text(&view))
        }
        ProviderCommand::Status => {
            let report = context.node().and_then(|node| context.block_on(async { node.own_provider().await }))?;
            context.show(&report, || report_text(&report))
        }
        ProviderCommand::Drain => switch(context, ProviderAction::Drain),
        ProviderCommand::Resume => switch(context, ProviderAction::Resume),
    }
}

fn switch(context: &Context, action: ProviderAction) -> Outcome {
    let report = context.node().and_then(|node| context.block_on(async { node.drain(action).await }))?;
    context.show(&report, || report_text(&report))
}

fn list(context: &Context, args: ListArgs) -> Outcome {
    let query = ProviderQuery {
        cpus: args.cpus,
        memory_mib: args.memory,
        disk_gib: args.disk,
        country: args.country,
        arch: args.arch,
        max_price: args.max_price,
        image: args.image,
        isolation: args.isolation,
        sort: args.sort.map(|sort| match sort {
            Sort::Price => ProviderSort::Price,
            Sort::Latency => ProviderSort::Latency,
            Sort::Score => ProviderSort::Score,
        }),
        limit: args.limit,
    };
    let found = context.node().and_then(|node| context.block_on(async { node.providers(&query).await }))?;
    if found.is_empty() && !context.is_json() {
        context.say("nobody offers that now; 'golemnode node status' shows whether any peer is connected");
    }
    context.show(&found, || list_text(&found))
}

fn list_text(found: &[ProviderView]) -> String {
    let row = |view: &ProviderView| {
        vec![
            view.peer_id.to_string(),
            dash(view.name.as_ref()),
            dash(view.country.as_ref()),
            view.arch.to_string(),
            view.isolation.to_string(),
            view.free.cpus.to_string(),
            view.free.memory_mib.to_string(),
            view.free.disk_gib.to_string(),
            format!("{} {}/h", view.price_per_hour, view.currency),
            dash(view.latency_ms.map(|ms| format!("{ms} ms"))),
            format!("{:.2}", view.score),
            some_of(&view.images, 3),
        ]
    };
    let head = [
        "PEER",
        "NAME",
        "COUNTRY",
        "ARCH",
        "ISOLATION",
        "CPUS",
        "MEMORY",
        "DISK",
        "PRICE",
        "LATENCY",
        "SCORE",
        "IMAGES",
    ];
    table(&head, &found.iter().map(row).collect::<Vec<_>>())
}

fn info_text(view: &ProviderView) -> String {
    fields(&[
        ("peer id", Some(view.peer_id.to_string())),
        ("name", view.name.as_ref().map(ToString::to_string)),
        ("country", view.country.as_ref().map(ToString::to_string)),
        ("architecture", Some(view.arch.to_string())),
        ("backend", Some(view.backend.to_string())),
        ("isolation", Some(view.isolation.to_string())),
        ("egress", Some(view.egress.to_string())),
        ("free", Some(view.free.to_string())),
        ("largest VM", Some(view.largest.to_string())),
        ("CPUs let", (view.overcommit_cpu != 1.0).then(|| format!("{} for each that it has", view.overcommit_cpu))),
        ("price", Some(format!("{} {}/h", view.price_per_hour, view.currency))),
        ("images", Some(some_of(&view.images, 99))),
        ("latency", view.latency_ms.map(|ms| format!("{ms} ms"))),
        ("score", Some(format!("{:.2}", view.score))),
        ("create takes", view.estimate_ms.map(|ms| format!("about {}", seconds(ms)))),
        ("advert until", Some(view.expires_at.clone())),
    ])
}

fn report_text(report: &ProviderReport) -> String {
    let status = &report.status;
    let advert = match &status.reason {
        None => "on the board".to_owned(),
        Some(reason) => format!("none: {reason}"),
    };
    let mut rows = vec![
        ("advert", Some(advert)),
        ("backend", Some(format!("{} ({})", status.backend, status.isolation))),
        ("offer", Some(status.offer.to_string())),
        ("free", Some(status.free.to_string())),
        ("leases", Some(format!("{} of {}", status.leases, status.max_vms))),
        ("price", Some(format!("{} {}/h", status.price_per_hour, status.currency))),
        ("images", Some(some_of(&status.images, 99))),
    ];
    rows.extend(report.host.iter().flat_map(|host| host_rows(report, host)));
    let mut text = fields(&rows);
    if !report.vms.is_empty() {
        text += "\n";
        text += &table(
            &["LEASE", "CPU TIME", "MEMORY", "DISK", "READ", "WRITTEN"],
            &report.vms.iter().map(usage_row).collect::<Vec<_>>(),
        );
    }
    text
}

fn host_rows<'a>(report: &ProviderReport, host: &HostView) -> Vec<(&'a str, Option<String>)> {
    let used = |percent: f64, of: String, threshold: u8| Some(format!("{percent} % of {of} (threshold {threshold} %)"));
    let cpu = match host.cpu_percent {
        None => "measured for less than a minute".to_owned(),
        Some(percent) => format!("{percent} % of {} (threshold {} %)", host.cpus, report.cpu_threshold),
    };
    let swap = (host.swap_bytes > 0).then(|| format!("{} % of {}", host.swap_percent, bytes(host.swap_bytes)));
    let rates =
        |first: &str, a: u64, second: &str, b: u64| Some(format!("{first} {}/s, {second} {}/s", bytes(a), bytes(b)));
    vec![
        ("processors", Some(cpu)),
        ("… its guests", Some(format!("{} %", host.guests_cpu_percent))),
        ("memory", used(host.memory_percent, bytes(host.memory_bytes), report.memory_threshold)),
        ("swap", swap),
        ("disk", used(host.disk_percent, bytes(host.disk_bytes), report.disk_threshold)),
        ("disk traffic", rates("read", host.disk_read_per_s, "written", host.disk_written_per_s)),
        ("network", rates("received", host.net_received_per_s, "sent", host.net_sent_per_s)),
    ]
}

fn usage_row(vm: &VmUsageView) -> Vec<String> {
    vec![
        vm.lease_id.to_string(),
        seconds(vm.cpu_s * 1000),
        dash(vm.memory_bytes.map(bytes)),
        bytes(vm.disk_bytes),
        dash(vm.disk_read_bytes.map(bytes)),
        dash(vm.disk_written_bytes.map(bytes)),
    ]
}
