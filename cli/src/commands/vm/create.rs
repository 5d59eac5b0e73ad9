//! `golemnode vm create`: one request, a stream of stages, and nothing left rented when it is interrupted.
use super::keys;
use super::progress::Progress;
use crate::context::{Context, interruption};
use crate::failure::{Failure, Outcome};
use clap::Args;
use node::api::client::Client;
use node::api::types::{CreateEvent, CreateVm, VmStatus, VmView};
use node::clock::{now, rfc3339};
use node::config::{Home, Settings};
use protocol::money::Amount;
use protocol::names::{BackendKind, Country, ImageName, IsolationWanted, VmName};
use protocol::units::{DiskGib, MemoryMib, Millis, Resources};
use protocol::{ErrorCode, Fault, PeerId};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long an interrupted create may take to take back what it asked for.
const UNDO_DEADLINE: Duration = Duration::from_secs(30);
const UNDO_PAUSE: Duration = Duration::from_millis(200);
const DAY: Millis = Millis::secs(86_400);

#[derive(Args)]
pub struct CreateArgs {
    /// Lower-case letters, digits and dashes; the guest's host name too
    name: VmName,
    /// small: 1 CPU, 1G memory, 10G disk; medium: 2, 4G, 20G; large: 4, 8G, 40G [default: small]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["cpus", "memory", "disk"], value_parser = Resources::named)]
    size: Option<Resources>,
    /// CPUs [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, such as 512M or 4G [default: 1G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemoryMib>,
    /// Disk, such as 20G [default: 10G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<DiskGib>,
    /// What to boot [default: the setting default_image, ubuntu:24.04]
    #[arg(long, value_name = "I")]
    image: Option<ImageName>,
    /// Of this provider only
    #[arg(long, value_name = "PEER")]
    provider: Option<PeerId>,
    /// In this country, by its ISO 3166-1 code
    #[arg(long, value_name = "CC")]
    country: Option<Country>,
    /// At most this price per hour
    #[arg(long, value_name = "P")]
    max_price: Option<Amount>,
    /// Take half as much of a machine, or a quarter, where nobody gives that much
    #[arg(long)]
    allow_smaller: bool,
    /// What the whole time may cost at most
    #[arg(long, value_name = "P")]
    budget: Option<Amount>,
    /// How long to rent it; unless given, 24h, or less where that is the most that is let at a time
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<Millis>,
    /// vm: hardware and emulated guests; any: also containers and simulated ones
    #[arg(long, value_name = "vm|any", default_value = "vm")]
    isolation: IsolationWanted,
    /// Made by this backend only
    #[arg(long, value_name = "B")]
    backend: Option<BackendKind>,
    /// Your own key: a file, or a name from 'key list' [default: a new pair for this VM]
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<String>,
    /// cloud-init user-data; - for stdin
    #[arg(long, value_name = "FILE")]
    cloud_init: Option<PathBuf>,
    /// A TCP port that others may reach at the provider; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    publish: Vec<u16>,
    /// Give up when it does not answer after so long
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: Millis,
    /// Return as soon as the lease is active, before the guest has booted
    #[arg(long)]
    no_wait: bool,
}

pub fn run(context: &Context, args: CreateArgs) -> Outcome {
    let home = context.home()?;
    let request = request(&home, args)?;
    let node = context.node()?;
    let runtime = context.runtime()?;
    let vm = runtime.block_on(create(context, &node, &request))?;
    context.show(&vm, || created_text(&vm))
}

/// Everything that can be wrong on this side is found before anybody is asked.
fn request(home: &Home, args: CreateArgs) -> Result<CreateVm, Fault> {
    let small = Resources::SMALL;
    let asked = Resources {
        cpus: args.cpus.unwrap_or(small.cpus),
        memory_mib: args.memory.unwrap_or(small.memory_mib),
        disk_gib: args.disk.unwrap_or(small.disk_gib),
    };
    let image = match args.image {
        Some(image) => image,
        None => Settings::load(home)?.default_image,
    };
    if args.timeout.as_secs() == 0 {
        return Err(Fault::invalid("--timeout: it must be at least 1s"));
    }
    let duration = args.duration.unwrap_or(DAY);
    Ok(CreateVm {
        name: args.name,
        resources: args.size.unwrap_or(asked).check()?,
        image,
        provider: args.provider,
        country: args.country,
        arch: None,
        max_price: within(args.max_price, args.budget, duration),
        backend: args.backend,
        isolation: args.isolation,
        duration_s: duration.as_secs(),
        or_less: args.duration.is_none(),
        allow_smaller: args.allow_smaller,
        ssh_key: args.ssh_key.map(|key| keys::tenant_key(home, &key)).transpose()?,
        user_data: args.cloud_init.map(|file| keys::user_data(&file)).transpose()?,
        ports: args.publish,
        timeout_s: args.timeout.as_secs(),
        wait: !args.no_wait,
        project: None,
    })
}

/// The most that an hour may cost.
fn within(max_price: Option<Amount>, budget: Option<Amount>, time: Millis) -> Option<Amount> {
    let hour = budget.map(|budget| budget.an_hour_of(time));
    max_price.into_iter().chain(hour).min()
}

async fn create(context: &Context, node: &Client, request: &CreateVm) -> Result<VmView, Failure> {
    let began = rfc3339(now());
    let mut progress = Progress::new(context);
    let interrupted = interruption()?;
    let ended = tokio::select! {
        ended = follow(node, request, &mut progress) => Some(ended),
        () = interrupted => None,
    };
    progress.end(matches!(ended, Some(Ok(_))));
    // The stream is dropped by now: what was not confirmed yet is taken back by the node.
    match ended {
        Some(ended) => Ok(ended?),
        None => {
            context.say("interrupted: taking the request back");
            undo(context, node, request, &began).await;
            Err(Failure::Interrupted)
        }
    }
}

async fn follow(node: &Client, request: &CreateVm, progress: &mut Progress) -> Result<VmView, Fault> {
    let mut events = node.create(request).await?;
    while let Some(event) = events.next().await? {
        match event {
            CreateEvent::Stage { stage, message, elapsed_ms, estimate } => {
                progress.stage(stage, &message, elapsed_ms);
                estimate.iter().for_each(|estimate| progress.estimate(estimate));
            }
            CreateEvent::Notice { message } => progress.notice(message),
            CreateEvent::Done { vm } => return Ok(*vm),
            CreateEvent::Failed { error } => return Err(error),
        }
    }
    Err(Fault::new(ErrorCode::Unavailable, "the node ended before the VM was there")
        .hint(format!("'golemnode vm list' shows whether '{}' is rented", request.name)))
}

/// Removes what this call has made; a VM of that name that was there before is not ours to remove.
async fn undo(context: &Context, node: &Client, request: &CreateVm, began: &str) {
    let deadline = Instant::now() + UNDO_DEADLINE;
    let name = request.name.as_str();
    loop {
        let why = match node.vm(name).await {
            Err(fault) if fault.code == ErrorCode::NoSuchVm => return,
            // Both times are of this machine's clock and of one form, so they compare as text.
            Ok(vm) if vm.created_at.as_str() < began => return,
            Ok(vm) if matches!(vm.status, VmStatus::Destroyed | VmStatus::Failed) && vm.lease.is_none() => return,
            Ok(vm) => match node.destroy(&vm.id).await {
                Ok(_) => return,
                Err(fault) if fault.code == ErrorCode::NoSuchVm => return,
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        if Instant::now() > deadline {
            context.say(format!("'{name}' may still be rented: {}", why.message));
            return context.say(format!("'golemnode vm destroy {name}' ends it"));
        }
        tokio::time::sleep(UNDO_PAUSE).await;
    }
}

fn created_text(vm: &VmView) -> String {
    let price = vm.lease.as_ref().map_or(String::new(), |lease| {
        format!(" for {} {}/h until {}", lease.price_per_hour, lease.currency, lease.expires_at)
    });
    let times = vm.timings_ms;
    let mut text = format!("{} is {}{price}\n", vm.name, super::word(vm.status));
    if times.total > 0 {
        text.push_str(&format!(
            "discover {} ms, quote {} ms, lease {} ms, provision {} ms, boot {} ms, total {} ms\n",
            times.discover, times.quote, times.lease, times.provision, times.boot, times.total
        ));
    }
    if vm.ssh.is_some() {
        text.push_str(&format!("log in: golemnode vm ssh {}\n", vm.name));
    }
    text
}
