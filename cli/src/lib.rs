//! The binary `golemnode`: parse, ask the node, print. The only place that touches the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the terminal is this crate's business")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]
mod args;
mod commands;
mod completing;
mod context;
mod failure;
mod help;
mod output;
mod project;
mod start;
mod usage;

use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;

/// The whole command line, for the help, the manual pages and the completions.
pub fn command() -> clap::Command {
    help::complete(args::Cli::command())
}

pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    // Read before the rest can be, so that even a wrong command line is answered in the form asked for.
    let early = usage::Early::read(&words);
    match completing::answer(&words) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return usage::answer(&error, &early),
    }
    let parsed = command()
        .color(early.clap_color())
        .try_get_matches_from(words)
        .and_then(|matches| args::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage::answer(&error, &early),
    };
    let context = context::Context::new(cli.global);
    let ended = commands::run(&context, cli.command);
    ExitCode::from(failure::exit(&context, ended))
}
