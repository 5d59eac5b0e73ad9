//! `golemnode sim …`: a mesh that is simulated, from a file that says what happens to it.
use crate::args::Format;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{escaped, fields, print};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use node::config::io;
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use simulations::model::observe::{Minute, Summary};
use simulations::model::run::{Ended, MINUTE, Run};
use simulations::model::scenario::Scenario;
use simulations::model::shrink::shrink;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A scenario has some 2 KiB; a file beyond this is something else.
const MOST: u64 = 256 * 1024;
/// Fast enough to look alive, slow enough to cost nothing.
const TICK: Duration = Duration::from_millis(120);

#[derive(Subcommand)]
pub enum SimCommand {
    /// Run a scenario, and hold what was seen against what it promises
    Run(RunArgs),
    /// Run a scenario again up to a failure, and show the last events before it
    Replay(ReplayArgs),
}

#[derive(Args)]
pub struct Which {
    /// The scenario: simulations/scenarios has some to begin with
    file: PathBuf,
    /// All chance comes from this number [default: the file's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// So many nodes, requestors and creates in proportion [default: the file's]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// The size that the file names in [full]
    #[arg(long, conflicts_with = "nodes")]
    full: bool,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// model: the core itself over a model of links and routing; live: whole nodes in this process
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Write plots (SVG) into this folder
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    /// Stop at this millisecond of the run
    #[arg(long, value_name = "MS")]
    until: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Engine {
    #[default]
    Model,
    Live,
}

pub fn run(context: &Context, command: SimCommand) -> Outcome {
    match command {
        SimCommand::Run(args) => simulate(context, &args),
        SimCommand::Replay(args) => replay(context, &args),
    }
}

impl Which {
    fn scenario(&self) -> Result<Scenario, Fault> {
        let mut scenario = Scenario::read(&read(&self.file)?)
            .map_err(|fault| Fault { message: format!("{}: {}", self.file.display(), fault.message), ..fault })?;
        if self.full {
            scenario = scenario.full();
        }
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        match self.nodes {
            Some(0) => Err(Fault::invalid("--nodes is 0: there would be nothing to simulate")),
            Some(nodes) => Ok(scenario.sized(nodes)),
            None => Ok(scenario),
        }
    }
    /// What runs the same again.
    fn again(&self, seed: u64, nodes: Option<u32>, until_ms: u64) -> String {
        let size = match nodes.or(self.nodes) {
            Some(nodes) => format!(" --nodes {nodes}"),
            None if self.full => " --full".to_owned(),
            None => String::new(),
        };
        format!("golemnode sim replay {} --seed {seed}{size} --until {until_ms}", self.file.display())
    }
}

fn read(file: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| io("read", file, &error))?;
    opened.take(MOST + 1).read_to_string(&mut text).map_err(|error| io("read", file, &error))?;
    if text.len() as u64 > MOST {
        return Err(Fault::invalid(format!("{} is larger than {MOST} bytes: it is no scenario", file.display())));
    }
    Ok(text)
}

/// What the clock on the wall says, apart from what the seed decides.
#[derive(Serialize)]
struct Wall {
    seconds: f64,
    node_seconds_per_second: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    invariant: Option<&'a str>,
    broken: Vec<String>,
    wall: Wall,
    replay: Option<String>,
}

fn simulate(context: &Context, args: &RunArgs) -> Outcome {
    let scenario = args.which.scenario()?;
    let lines = context.is_json();
    let (ended, minutes, seconds) = watched(context, &scenario, args.engine)?;
    let wall = Wall { seconds, node_seconds_per_second: ended.summary.node_seconds as f64 / seconds.max(1e-9) };
    // What happened in real time happens once.
    let smallest = (!ended.is_well() && args.engine == Engine::Model).then(|| {
        // With --json nothing stands before the error's JSON.
        if !lines {
            context.say("looking for a smaller run that fails in the same way");
        }
        shrink(&scenario, &ended)
    });
    let replay = smallest.map(|smallest| args.which.again(scenario.seed, smallest.nodes, smallest.until_ms));
    let report = Report {
        summary: &ended.summary,
        invariant: ended.violation.as_ref().map(|violation| violation.invariant),
        broken: ended.failures.iter().map(ToString::to_string).collect(),
        wall,
        replay,
    };
    if lines {
        print(&json(&report)?)?;
    } else {
        context.show(&report, || text(&report))?;
    }
    if let Some(folder) = &args.plot {
        plot(context, folder, &scenario.name, &minutes)?;
    }
    match report.replay {
        Some(replay) => Err(failed(&scenario, &ended).hint(format!("replay with: {replay}")).into()),
        None if ended.is_well() => Ok(0),
        None => Err(failed(&scenario, &ended).into()),
    }
}

/// Runs it, and prints each minute as it ends. What there was in each, and the seconds that it all took.
fn watched(context: &Context, scenario: &Scenario, engine: Engine) -> Result<(Ended, Vec<Minute>, f64), Failure> {
    let progress = Progress::new(context, scenario);
    let (began, mut minutes, mut said) = (Instant::now(), Vec::new(), Ok(()));
    if context.format() == Format::Table {
        print(&head())?;
    }
    let look = |minute: &Minute| {
        progress.at(minute);
        let line = match context.format() {
            Format::Json => json(minute),
            Format::Table => Ok(row(minute)),
            // One document, at the end.
            Format::Yaml => Ok(String::new()),
        };
        let printed = progress.aside(|| line.and_then(|line| print(&line)));
        if said.is_ok() {
            said = printed;
        }
        minutes.push(minute.clone());
    };
    let ended = match engine {
        Engine::Model => Ok(Run::new(scenario.clone()).run(None, look)),
        Engine::Live => simulations::live::play(scenario, look).map(|played| Ended {
            summary: played.summary,
            violation: None,
            failures: played.failures,
            story: Vec::new(),
        }),
    };
    let seconds = began.elapsed().as_secs_f64();
    progress.end();
    said?;
    Ok((ended?, minutes, seconds))
}

/// The one line that says what did not hold.
fn failed(scenario: &Scenario, ended: &Ended) -> Fault {
    let seed = scenario.seed;
    if let Some(violation) = &ended.violation {
        let what = format!("invariant {} does not hold at {} ms, with seed {seed}", violation.invariant, violation.at);
        return Fault::new(ErrorCode::Internal, what).details(violation.why.clone());
    }
    let broken: Vec<String> = ended.failures.iter().map(ToString::to_string).collect();
    let what = format!("{} does not keep what it promises, with seed {seed}: {}", scenario.name, broken.join("; "));
    Fault::new(ErrorCode::Internal, what)
}

fn replay(context: &Context, args: &ReplayArgs) -> Outcome {
    let scenario = args.which.scenario()?;
    let progress = Progress::new(context, &scenario);
    let ended = Run::new(scenario.clone()).telling().run(args.until, |minute| progress.at(minute));
    progress.end();
    let mut told = ended.story.join("\n");
    told.push('\n');
    print(&told)?;
    if ended.is_well() {
        let at = args.until.unwrap_or(scenario.minutes * MINUTE);
        context.say(format!("up to {at} ms every invariant holds; trace {}", ended.summary.trace));
        return Ok(0);
    }
    Err(failed(&scenario, &ended).into())
}

fn json<T: Serialize>(value: &T) -> Result<String, Fault> {
    let line = serde_json::to_string(value).map_err(|error| Fault::internal(format!("no JSON: {error}")))?;
    Ok(escaped(&line) + "\n")
}

/// Printed as they come, so the columns are as wide as they will ever be.
fn columns(cells: [&str; 14]) -> String {
    const WIDTHS: [usize; 14] = [6, 7, 9, 7, 7, 8, 7, 6, 6, 5, 7, 6, 6, 8];
    let line: String = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}  ")).collect();
    format!("{}\n", line.trim_end())
}

fn head() -> String {
    columns([
        "MINUTE",
        "NODES",
        "PROVIDERS",
        "B/S",
        "P99",
        "BUSIEST",
        "RECALL",
        "DEAD",
        "SHARDS",
        "DEPTH",
        "LOOKUPS",
        "DONE",
        "FAILED",
        "DISCOVER",
    ])
}

fn row(minute: &Minute) -> String {
    let larger = |both: [f64; 2]| format!("{:.0}", both[0].max(both[1]));
    let done = minute.done.to_string();
    columns([
        &minute.minute.to_string(),
        &minute.nodes.to_string(),
        &minute.providers.to_string(),
        &larger(minute.mean),
        &larger(minute.p99),
        &larger(minute.busiest),
        &format!("{:.2}%", minute.recall * 100.0),
        &format!("{:.1}%", minute.dead_share * 100.0),
        &minute.shards.to_string(),
        &minute.deepest.to_string(),
        &minute.lookups.to_string(),
        &done,
        &minute.failed.to_string(),
        &format!("{} ms", minute.discover_p50_ms),
    ])
}

fn text(report: &Report) -> String {
    let summary = report.summary;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let why: Vec<String> = summary.failures.iter().map(|(code, count)| format!("{count} {code}")).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
    let rows = [
        ("scenario", Some(format!("{}, {} nodes, {} minutes", summary.scenario, summary.nodes, summary.minutes))),
        ("seed", Some(summary.seed.to_string())),
        ("trace", (summary.events > 0).then(|| format!("{} of {} events", summary.trace, summary.events))),
        ("recall", Some(percent(summary.recall))),
        ("recall there", summary.target_recall.map(percent)),
        ("dead adverts", (summary.events > 0).then(|| percent(summary.dead_share))),
        (
            "bytes a second",
            Some(format!("{:.0} mean, {:.0} p99, {:.0} busiest", summary.mean, summary.p99, summary.busiest)),
        ),
        ("cost ratio", summary.cost_ratio.map(|ratio| format!("{ratio:.2}"))),
        ("lookups", summary.lookups.map(percent)),
        ("rounds", summary.lookups.map(|_| format!("{} p50, {} p99", summary.rounds_p50, summary.rounds_p99))),
        ("creates", Some(format!("{} of {} ran, {} failed{why}", summary.done, summary.asked, summary.failed))),
        ("first accept", summary.first_accept.map(percent)),
        ("discover", Some(format!("{} ms p50, {} ms p99", summary.discover_p50_ms, summary.discover_p99_ms))),
        ("ready", Some(format!("{} ms p50, {} ms p99", summary.ready_p50_ms, summary.ready_p99_ms))),
        (
            "speed",
            Some(format!(
                "{:.1} s, {:.0} node-seconds a second",
                report.wall.seconds, report.wall.node_seconds_per_second
            )),
        ),
        ("invariant", report.invariant.map(str::to_owned)),
        ("promises", Some(if report.broken.is_empty() { "kept".to_owned() } else { report.broken.join("; ") })),
    ];
    format!("\n{}", fields(&rows))
}

fn plot(context: &Context, folder: &Path, name: &str, minutes: &[Minute]) -> Result<(), Fault> {
    std::fs::create_dir_all(folder).map_err(|error| io("create", folder, &error))?;
    for (what, svg) in simulations::model::plot::plots(name, minutes)? {
        let file = folder.join(format!("{name}-{what}.svg"));
        std::fs::write(&file, svg).map_err(|error| io("write", &file, &error))?;
        context.say(format!("wrote {}", file.display()));
    }
    Ok(())
}

/// Where a run is, on a terminal only: the table says it elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(context: &Context, scenario: &Scenario) -> Self {
        let wanted = !context.is_quiet() && std::io::stderr().is_terminal();
        let bar = wanted.then(|| ProgressBar::new(scenario.minutes));
        if let Some(bar) = &bar {
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] minute {pos} of {len}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
        }
        Progress { bar }
    }
    fn at(&self, minute: &Minute) {
        if let Some(bar) = &self.bar {
            bar.set_position(minute.minute);
        }
    }
    fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
