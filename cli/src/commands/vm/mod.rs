//! `golemnode vm …`: rent virtual machines and use them.
mod access;
mod copy;
pub mod create;
mod forward;
pub mod keys;
mod progress;
mod proxy;
mod scale;
mod ssh;

use crate::context::{Context, left_alone};
use crate::failure::{Failure, Outcome};
use crate::output::{dash, fields, table};
use clap::Subcommand;
use node::api::billing::RenewBody;
use node::api::types::{RenameBody, VmActionBody, VmActionName, VmStatus, VmView};
use protocol::money::Amount;
use protocol::names::VmName;
use protocol::tunnel::MAX_LOG;
use protocol::units::{Millis, Resources};
use protocol::{ErrorCode, Fault};

#[derive(Subcommand)]
pub enum VmCommand {
    /// Rent a virtual machine and boot it
    #[command(visible_alias = "launch")]
    Create(Box<create::CreateArgs>),
    /// List your virtual machines
    List,
    /// Show one
    Info {
        /// Its name or id
        name: String,
    },
    /// Boot one that is stopped
    Start { name: String },
    /// Shut one down; its disk and its lease stay
    Stop {
        name: String,
        /// Cut the power instead of asking the guest
        #[arg(long)]
        force: bool,
    },
    /// Shut one down and boot it again
    Restart { name: String },
    /// Halt one where it is; its memory stays at its provider
    Suspend { name: String },
    /// Let one that is suspended go on
    Resume { name: String },
    /// Give one another size: what runs is shut down and booted with it; a disk only grows
    Scale(scale::ScaleArgs),
    /// Prolong its lease, at what its provider asks now
    Renew {
        name: String,
        /// How much longer
        #[arg(long = "for", value_name = "DURATION")]
        duration: Millis,
        /// The most that an hour may cost from then on; what it costs now unless given
        #[arg(long, value_name = "PRICE")]
        max_price: Option<Amount>,
    },
    /// Give it another name here; the guest's host name stays
    Rename {
        /// Its name or id
        name: String,
        new: VmName,
    },
    /// End its lease and remove it with its disk
    Destroy { name: String },
    /// Log in, or run a command with OpenSSH's own options
    #[command(visible_alias = "shell")]
    Ssh(ssh::SshArgs),
    /// Run a command in the guest, and exit with its code
    Exec(ssh::ExecArgs),
    /// Say which SSH keys may log in to a running guest
    #[command(subcommand)]
    Key(access::AccessCommand),
    /// Copy files and directories to a guest or from it
    #[command(visible_alias = "transfer")]
    Copy(copy::CopyArgs),
    /// Lead ports of this machine to ports of the guest, until Ctrl-C
    Forward(forward::ForwardArgs),
    /// Print what the guest has written to its serial console: its boot log, and why it does not come up
    Logs {
        /// Its name or id
        name: String,
        /// The last so many bytes
        #[arg(long, value_name = "N", default_value_t = MAX_LOG)]
        bytes: u32,
        /// As it is, also what drives a terminal
        #[arg(long)]
        raw: bool,
    },
    /// Join stdin and stdout to a port of the guest (OpenSSH's ProxyCommand)
    Proxy(proxy::ProxyArgs),
    /// Print Host blocks for ~/.ssh/config, so that ssh, scp, rsync and Ansible find the guests by name
    SshConfig {
        /// Only these; without any, all that have been booted
        names: Vec<String>,
    },
    /// Wait until one is in a state
    Wait {
        name: String,
        /// pending, provisioning, running, stopping, stopped, suspended, destroying, destroyed, failed, expired, unknown
        #[arg(value_parser = status)]
        state: VmStatus,
        /// Give up after so long
        #[arg(long, value_name = "DURATION", default_value = "5m")]
        timeout: Millis,
    },
}

pub fn run(context: &Context, command: VmCommand) -> Outcome {
    let act = |name: &str, action: VmActionName, force| act(context, name, VmActionBody { force, ..action.into() });
    match command {
        VmCommand::Create(args) => create::run(context, *args),
        VmCommand::List => list(context),
        VmCommand::Info { name } => {
            let vm = find(context, &name)?;
            context.show(&vm, || info_text(&vm))
        }
        VmCommand::Start { name } => act(&name, VmActionName::Start, false),
        VmCommand::Stop { name, force } => act(&name, VmActionName::Stop, force),
        VmCommand::Restart { name } => act(&name, VmActionName::Restart, false),
        VmCommand::Suspend { name } => act(&name, VmActionName::Suspend, false),
        VmCommand::Resume { name } => act(&name, VmActionName::Resume, false),
        VmCommand::Scale(args) => scale::run(context, &args),
        VmCommand::Renew { name, duration, max_price } => {
            let node = context.node()?;
            let body = RenewBody { duration_s: duration.as_secs(), max_price };
            let vm = context.block_on(async { node.renew(&name, &body).await })?;
            context.show(&vm, || renewed_text(&vm))
        }
        VmCommand::Rename { name, new } => {
            let node = context.node()?;
            let vm = context.block_on(async { node.rename(&name, &RenameBody { name: new }).await })?;
            context.show(&vm, || format!("{name} is {} now\n", vm.name))
        }
        VmCommand::Destroy { name } => destroy(context, &name),
        VmCommand::Ssh(args) => ssh::ssh(context, args),
        VmCommand::Exec(args) => ssh::exec(context, args),
        VmCommand::Logs { name, bytes, raw } => {
            let node = context.node()?;
            let log = context.block_on(async { node.log(&name, bytes).await })?;
            context.show(&log, || if raw { log.text.clone() } else { console(&log.text) })
        }
        VmCommand::Key(command) => access::run(context, command),
        VmCommand::Copy(args) => copy::run(context, &args),
        VmCommand::Forward(args) => forward::run(context, &args),
        VmCommand::Proxy(args) => proxy::run(context, &args),
        VmCommand::SshConfig { names } => ssh::config(context, &names),
        VmCommand::Wait { name, state, timeout } => {
            let node = context.node()?;
            let vm = context.block_on(async { node.wait(&name, state, timeout.as_std()).await })?;
            context.show(&vm, || format!("{} is {}\n", vm.name, word(vm.status)))
        }
    }
}

fn find(context: &Context, name: &str) -> Result<VmView, Failure> {
    let node = context.node()?;
    context.block_on(async { node.vm(name).await })
}

fn list(context: &Context) -> Outcome {
    let vms = context.node().and_then(|node| context.block_on(async { node.vms().await }))?;
    context.show(&vms, || list_text(&vms))
}

fn act(context: &Context, name: &str, body: VmActionBody) -> Outcome {
    let node = context.node()?;
    let vm = context.block_on(async { node.act(name, &body).await })?;
    context.show(&vm, || format!("{} is {}\n", vm.name, word(vm.status)))
}

fn destroy(context: &Context, name: &str) -> Outcome {
    let node = context.node()?;
    let vm = context.block_on(async { node.vm(name).await })?;
    if !context.confirm(&format!("destroy '{}' and its disk?", vm.name))? {
        return left_alone(context);
    }
    let vm = context.block_on(async { node.destroy(&vm.id).await })?;
    context.show(&vm, || format!("{} is {}\n", vm.name, word(vm.status)))
}

/// A status as it is written in JSON.
pub fn word(status: VmStatus) -> String {
    let value = serde_json::to_value(status).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn status(text: &str) -> Result<VmStatus, Fault> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Fault::invalid(format!("'{}' is not a state of a VM", text.chars().take(40).collect::<String>()))
            .hint("use pending, provisioning, running, stopped, suspended, destroyed, failed or expired")
    })
}

fn size(vm: &VmView) -> Resources {
    Resources { cpus: vm.cpus, memory_mib: vm.memory_mib, disk_gib: vm.disk_gib }
}

fn renewed_text(vm: &VmView) -> String {
    let lease = vm.lease.as_ref();
    let ends =
        lease.map(|lease| format!(" until {}, at {} {}/h", lease.expires_at, lease.price_per_hour, lease.currency));
    format!("{} is renewed{}\n", vm.name, ends.unwrap_or_default())
}

fn list_text(vms: &[VmView]) -> String {
    let row = |vm: &VmView| {
        vec![
            vm.name.to_string(),
            word(vm.status),
            vm.image.to_string(),
            vm.cpus.to_string(),
            vm.memory_mib.to_string(),
            vm.disk_gib.to_string(),
            dash(vm.provider.map(|peer| peer.short())),
            dash(vm.isolation),
            dash(vm.lease.as_ref().map(|lease| format!("{} {}/h", lease.price_per_hour, lease.currency))),
            dash(vm.lease.as_ref().map(|lease| &lease.expires_at)),
        ]
    };
    let head = ["NAME", "STATUS", "IMAGE", "CPUS", "MEMORY", "DISK", "PROVIDER", "ISOLATION", "PRICE", "EXPIRES"];
    table(&head, &vms.iter().map(row).collect::<Vec<_>>())
}

fn info_text(vm: &VmView) -> String {
    let times = vm.timings_ms;
    let timings = format!(
        "discover {}, quote {}, lease {}, provision {}, boot {}, total {} ms",
        times.discover, times.quote, times.lease, times.provision, times.boot, times.total
    );
    fields(&[
        ("name", Some(vm.name.to_string())),
        ("id", Some(vm.id.clone())),
        ("status", Some(word(vm.status))),
        ("because", vm.status_detail.clone()),
        ("error", vm.error.as_ref().map(ToString::to_string)),
        ("image", Some(vm.image.to_string())),
        ("size", Some(size(vm).to_string())),
        ("provider", vm.provider.map(|peer| peer.to_string())),
        ("path", vm.path.as_ref().map(ToString::to_string)),
        ("isolation", vm.isolation.map(|isolation| isolation.to_string())),
        ("egress", Some(vm.egress.to_string())),
        ("lease", vm.lease.as_ref().map(|lease| lease.id.to_string())),
        ("price", vm.lease.as_ref().map(|lease| format!("{} {}/h", lease.price_per_hour, lease.currency))),
        ("expires", vm.lease.as_ref().map(|lease| lease.expires_at.clone())),
        ("credit ends", vm.lease.as_ref().and_then(|lease| lease.credit_ends_at.clone())),
        ("created", Some(vm.created_at.clone())),
        ("timings", Some(timings).filter(|_| times.total > 0)),
        ("log in", vm.ssh.as_ref().map(|_| format!("golemnode vm ssh {}", vm.name))),
    ])
}

/// A console's text as it would stand on a screen: lines end with a carriage return before their end, and a guest may say
/// what it wants, but not to the terminal of who reads it.
fn console(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let plain = protocol::text::plain(line.trim_end_matches('\r'), usize::MAX);
        lines.push_str(&plain);
        lines.push('\n');
    }
    lines
}

/// What a VM must be for its ports to be reached.
fn running(vm: &VmView) -> Result<(), Fault> {
    if vm.status == VmStatus::Running {
        return Ok(());
    }
    let hint = match vm.status {
        VmStatus::Stopped => format!("'golemnode vm start {}' boots it", vm.name),
        VmStatus::Suspended => format!("'golemnode vm resume {}' lets it go on", vm.name),
        VmStatus::Pending | VmStatus::Provisioning => format!("'golemnode vm wait {} running' waits for it", vm.name),
        _ => format!("'golemnode vm info {}' says more", vm.name),
    };
    Err(Fault::new(ErrorCode::WrongState, format!("'{}' is {}, not running", vm.name, word(vm.status))).hint(hint))
}
