//! Our node beside the bare library: `live [SIZE,…] [KIND,…]`, by default `live 50,200,500 bare,gossip-only,ours`.
//! Prints each row as a line of JSON as soon as it is there, and a table at the end. Every row is measured in a process
//! of its own. `live lookups [NODES] [COUNT]`, by default 50 and 10000: does everybody find what was acknowledged?
//! `live calibrate [NODES] [NODES] [COUNT]`, by default 100, 200 and 1500: how far what the model says is off.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]
use protocol::Fault;
use simulations::live::{Figures, Kind, LookupPlan, Lookups, Plan, Setup, Sizes, calibrate, compare, run, run_lookups};
use std::process::{Command, ExitCode, Stdio};

/// What a row's process is started with, before its setup.
const ONE: &str = "--one";
const LOOKUPS: &str = "lookups";
const CALIBRATE: &str = "calibrate";
/// Of a calibration, when nothing else is said: the size that is fitted at, the one that is predicted, and lookups of each.
const SIZES: [usize; 2] = [100, 200];
const LOOKED_UP: usize = 1500;
/// Of lookups, when nothing else is said.
const NODES: usize = 50;
const COUNT: usize = 10_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.as_slice() {
        [flag, setup] if flag == ONE => one(setup),
        [what, words @ ..] if what == LOOKUPS => look_up(words),
        [what, words @ ..] if what == CALIBRATE => lay_beside(words),
        words => plan(words).map(|plan| {
            let report = compare(&plan, in_a_process, |row| println!("{}", json(row)));
            println!("\n{}", report.table());
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<usize, Fault> {
    word.parse().map_err(|_| Fault::invalid(format!("'{word}' is no number")))
}

fn plan(words: &[String]) -> Result<Plan, Fault> {
    let mut plan = Plan::default();
    if let Some(sizes) = words.first() {
        plan.nodes = sizes.split(',').map(number).collect::<Result<_, _>>()?;
    }
    if let Some(kinds) = words.get(1) {
        let known = |word: &str| Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        let kind =
            |word| known(word).ok_or_else(|| Fault::invalid(format!("'{word}' is neither of bare, gossip-only, ours")));
        plan.kinds = kinds.split(',').map(kind).collect::<Result<_, _>>()?;
    }
    Ok(plan)
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain values are JSON: {error}"))
}

fn one(setup: &str) -> Result<(), Fault> {
    let setup: Setup = serde_json::from_str(setup).map_err(|error| Fault::invalid(format!("the setup: {error}")))?;
    println!("{}", json(&run(&setup)?));
    Ok(())
}

fn look_up(words: &[String]) -> Result<(), Fault> {
    let nodes = words.first().map_or(Ok(NODES), |word| number(word))?;
    let count = words.get(1).map_or(Ok(COUNT), |word| number(word))?;
    let lookups = run_lookups(&LookupPlan::new(nodes, count))?;
    println!("{}", json(&lookups));
    println!(
        "{nodes} nodes: {} of {} lookups found it, {:.0} ms (p99 {:.0}), in {} rounds; put in {:.0} ms (p99 {:.0}), at depth {}; \
         {} messages were gossiped",
        lookups.found,
        lookups.made,
        lookups.p50_ms,
        lookups.p99_ms,
        lookups.rounds,
        lookups.put_p50_ms,
        lookups.put_p99_ms,
        lookups.depth,
        lookups.gossiped,
    );
    match lookups.found == lookups.made {
        true => Ok(()),
        false => Err(Fault::internal(format!("not found, as (round, node), the first few: {:?}", lookups.missed))),
    }
}

fn lay_beside(words: &[String]) -> Result<(), Fault> {
    let given = words.iter().map(|word| number(word)).collect::<Result<Vec<usize>, Fault>>()?;
    let or = |at: usize, usual: usize| given.get(at).copied().unwrap_or(usual);
    let sizes = Sizes { nodes: [or(0, SIZES[0]), or(1, SIZES[1])], lookups: or(2, LOOKED_UP) };
    let look_up = |plan: &LookupPlan| -> Result<Lookups, Fault> { run_lookups(plan) };
    let calibration = calibrate(&sizes, in_a_process, look_up, |line| println!("{line}"))?;
    println!("\n{}", calibration.table());
    match calibration.is_within() {
        true => Ok(()),
        false => Err(Fault::internal("the model is further off than it may be")),
    }
}

fn in_a_process(setup: &Setup) -> Result<Figures, Fault> {
    let broken = |error: &dyn std::fmt::Display| Fault::internal(format!("{setup} was not measured: {error}"));
    let own = std::env::current_exe().map_err(|error| broken(&error))?;
    let child = Command::new(own).args([ONE, &json(setup)]).stdin(Stdio::null()).output();
    let output = child.map_err(|error| broken(&error))?;
    if !output.status.success() {
        return Err(broken(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| broken(&error))
}
