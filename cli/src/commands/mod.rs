//! One file for each group of commands.
pub mod ban;
pub mod credit;
pub mod db;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod identity;
pub mod image;
pub mod job;
pub mod key;
pub mod lease;
pub mod manual;
pub mod node;
pub mod project;
pub mod provider;
pub mod quota;
pub mod receipt;
pub mod sim;
pub mod vm;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Outcome;

pub fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Node(command) => node::run(context, command),
        Command::Up(args) => node::up(context, args),
        Command::Provider(command) => provider::run(context, command),
        Command::Vm(command) => vm::run(context, command),
        Command::Lease(command) => lease::run(context, command),
        Command::Image(command) => image::run(context, command),
        Command::Identity(command) => identity::run(context, command),
        Command::Key(command) => key::run(context, command),
        Command::Receipt(command) => receipt::run(context, command),
        Command::Credit(command) => credit::run(context, command),
        Command::Quota(command) => quota::run(context, command),
        Command::Job(command) => job::run(context, command),
        Command::Ban(command) => ban::run(context, command),
        Command::Db(command) => db::run(context, command),
        Command::Events(args) => events::run(context, &args),
        Command::Plan(args) => project::plan(context, &args),
        Command::Apply(args) => project::apply(context, &args),
        Command::Delete(args) => project::delete(context, &args),
        Command::Schema => project::schema(),
        Command::Doctor(args) => doctor::run(context, &args),
        Command::Sim(command) => sim::run(context, command),
        Command::Demo(args) => demo::run(context, &args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(&dir),
        Command::Version => manual::version(context),
    }
}
