//! `golemnode provider …`: who offers virtual machines.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{dash, fields, seconds, some_of, table};
use clap::{Args, Subcommand, ValueEnum};
use node::api::types::{ProviderQuery, ProviderSort, ProviderView};
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
    }
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
        ("price", Some(format!("{} {}/h", view.price_per_hour, view.currency))),
        ("images", Some(some_of(&view.images, 99))),
        ("latency", view.latency_ms.map(|ms| format!("{ms} ms"))),
        ("score", Some(format!("{:.2}", view.score))),
        ("create takes", view.estimate_ms.map(|ms| format!("about {}", seconds(ms)))),
        ("advert until", Some(view.expires_at.clone())),
    ])
}
