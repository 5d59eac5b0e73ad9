//! What every command takes, and the tree of commands.
use crate::commands::{
    ban, credit, db, doctor, events, identity, image, job, key, lease, node, project, provider, quota, receipt, sim, vm,
};
use clap::builder::styling::Styles;
use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::names::Network;
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "golemnode",
    bin_name = "golemnode",
    version,
    about = "Rent virtual machines from other people's computers, and rent out your own",
    long_about = "Rent virtual machines from other people's computers, and rent out your own, over a peer-to-peer \
                  mesh without a server, a chain or a token.\n\nWhen no node runs for the home, the first command \
                  that needs one starts one, which leaves by itself after 5 idle minutes.",
    after_help = "Exit codes: 0 ok, 2 wrong usage, 3 nothing or nobody found, 4 refused, 5 timed out, 130 \
                  interrupted, 1 any other failure; 'vm ssh' and 'vm exec' give the guest's own, and 255 when ours \
                  failed.",
    styles = Styles::plain(),
    propagate_version = false,
    infer_subcommands = false,
    subcommand_required = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where this node's identity, keys, images and state live [env: GOLEMNODE_HOME] [default: ~/.golem/node, for root
    /// /var/lib/golemnode]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t, hide_possible_values = false)]
    pub format: Format,
    /// Short for --format json
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Whether messages are coloured; NO_COLOR is heeded
    #[arg(long, global = true, value_enum, default_value_t)]
    pub color: Color,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Join the mesh through this address, such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…; may be repeated
    #[arg(long, global = true, value_name = "ADDR")]
    pub bootstrap: Vec<String>,
    /// The mesh to join; nodes of different networks never talk
    #[arg(long, global = true, value_name = "NAME")]
    pub network: Option<Network>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run this node, and see what it does
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Run a node (the same as 'node run')
    Up(node::RunArgs),
    /// See who offers virtual machines
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// Rent virtual machines and use them
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Show what 'apply' would do for a project file, and what it would cost
    Plan(project::FileArgs),
    /// Rent what a project file says, and give back what it no longer has
    Apply(project::ApplyArgs),
    /// Give back all VMs of a project file
    Delete(project::FileArgs),
    /// Print the JSON Schema of project files
    Schema,
    /// See the leases this node has a part in, and verify any lease
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// See what VMs have cost, signed by both sides, and verify any receipt
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// See and grant what requestors have paid this provider in advance
    #[command(subcommand)]
    Credit(credit::CreditCommand),
    /// Keep the disk images that this home offers
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Keep named SSH key pairs for 'vm create --ssh-key'
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Bound what a requestor may have at this provider at once
    #[command(subcommand)]
    Quota(quota::QuotaCommand),
    /// See what this provider does to its guests, and take something back
    #[command(subcommand)]
    Job(job::JobCommand),
    /// See which peers this node keeps out, and let them in again
    #[command(subcommand)]
    Ban(ban::BanCommand),
    /// Check, save and restore what this node has on disk: leases, rentals, events
    #[command(subcommand)]
    Db(db::DbCommand),
    /// See the key that this node is, and end a key that was stolen
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// List what has happened on this node
    Events(events::EventsArgs),
    /// Check what this machine needs to rent and to offer, and say how to mend it
    Doctor(doctor::DoctorArgs),
    /// Simulate a mesh of any size
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Show the whole of it on this machine: three nodes, a real guest, an SSH session
    Demo(crate::commands::demo::DemoArgs),
    /// Print a shell's completions
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man { dir: PathBuf },
    /// Print the version
    Version,
}
