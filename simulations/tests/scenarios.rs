//! Every file in `simulations/scenarios`, at the size that CI has time for, and what a wrong file is told.
use simulations::model::checks;
use simulations::model::run::{Ended, MINUTE, Run};
use simulations::model::scenario::Scenario;
use simulations::model::shrink::shrink;
use std::path::{Path, PathBuf};

/// What must be there; others may be.
const REQUIRED: [&str; 12] = [
    "baseline",
    "churn",
    "clock-skew",
    "eclipse",
    "false-routers",
    "flash-crowd",
    "growth",
    "oversell",
    "partition-1",
    "partition-10",
    "partition-60",
    "sybil-adverts",
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))
}

fn read(file: &Path) -> Scenario {
    let text = std::fs::read_to_string(file).expect("a scenario file");
    Scenario::read(&text).unwrap_or_else(|fault| panic!("{}: {}", file.display(), fault.message))
}

fn named(name: &str) -> Scenario {
    read(&folder().join(format!("{name}.toml")))
}

fn run(scenario: &Scenario) -> Ended {
    Run::new(scenario.clone()).run(None, |_| {})
}

fn holds(name: &str) {
    let scenario = named(name);
    assert_eq!(scenario.name, name, "a file is named after its scenario");
    assert!(scenario.about.len() > 20, "{name} does not say what it shows");
    let ended = run(&scenario);
    if !ended.is_well() {
        let smallest = shrink(&scenario, &ended);
        let broken: Vec<String> = ended.failures.iter().map(ToString::to_string).collect();
        panic!("{name}, seed {}: {:?} {broken:?}; smallest: {smallest:?}", scenario.seed, ended.violation);
    }
    assert_eq!(ended.summary.minutes as u64, scenario.minutes);
}

/// A test each, so that they run side by side and the one that fails has a name.
macro_rules! each {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { holds($name); })*
        const TESTED: &[&str] = &[$($name,)*];
    };
}
each! {
    baseline: "baseline",
    churn: "churn",
    clock_skew: "clock-skew",
    eclipse: "eclipse",
    false_routers: "false-routers",
    flash_crowd: "flash-crowd",
    forgers: "forgers",
    growth: "growth",
    half_life: "half-life",
    oversell: "oversell",
    partition_of_1_minute: "partition-1",
    partition_of_10_minutes: "partition-10",
    partition_of_an_hour: "partition-60",
    silent_holders: "silent-holders",
    sybil_adverts: "sybil-adverts",
    sybils_of_one_block: "sybil-block",
}

#[test]
fn every_file_is_run_and_none_is_missing() {
    let entries = std::fs::read_dir(folder()).expect("the folder of scenarios").flatten();
    let files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let mut names: Vec<String> = files.iter().map(|file| read(file).name).collect();
    names.sort_unstable();
    assert_eq!(names, TESTED);
    assert!(REQUIRED.iter().all(|name| TESTED.contains(name)));
}

#[test]
fn the_same_seed_is_the_same_run_whatever_is_looked_at() {
    let scenario = named("oversell").sized(40);
    let first = run(&scenario).summary;
    for _ in 0..3 {
        assert_eq!(run(&scenario).summary, first);
    }
    // Who replays it sees the same.
    let told = Run::new(scenario.clone()).telling().run(None, |_| {});
    assert_eq!(told.summary.trace, first.trace);
    assert!(told.story.len() > 10);
    let other = run(&Scenario { seed: scenario.seed + 1, ..scenario });
    assert_ne!(other.summary.trace, first.trace);
}

#[test]
fn users_rent_give_back_and_leave_leases_to_end() {
    let ended = run(&named("baseline"));
    let seen = &ended.summary;
    assert!(seen.asked > 20 && seen.done > 20, "{seen:?}");
    assert!(seen.discover_p99_ms > 0 && seen.ready_p50_ms > 5_000, "{seen:?}");
}

/// A promise that cannot be kept fails the run, and a smaller run that fails too is found.
#[test]
fn a_broken_promise_is_named_and_shrunk() {
    let mut scenario = named("baseline");
    scenario.expect.recall = Some(1.1);
    let ended = run(&scenario);
    assert!(ended.violation.is_none());
    assert_eq!(ended.first_failure(), Some("recall"));
    let smallest = shrink(&scenario, &ended);
    assert!(smallest.nodes.is_some_and(|nodes| nodes < scenario.size() / 2), "{smallest:?}");
    assert_eq!(smallest.until_ms, scenario.minutes * MINUTE);
}

/// A host that makes more than was agreed is caught at the event that did it, and the replay ends there.
#[test]
fn a_host_that_oversells_is_caught_at_once() {
    let mut run = Run::new(named("baseline"));
    run.model.run_until(3 * MINUTE);
    assert!(run.model.violation.is_none());
    let provider = run.model.nodes.iter().position(|node| node.core.is_some() && node.offer.is_some());
    let provider = provider.expect("a provider that is up");
    let offer = run.model.nodes[provider].offer.clone().expect("its offer");
    let lease = protocol::names::LeaseId([7; 16]);
    run.model.nodes[provider].vms.insert(lease, offer.total.plus(protocol::units::Resources::SMALL));
    run.model.run_until(9 * MINUTE);
    let violation = run.model.violation.clone().expect("a violation");
    assert_eq!(violation.invariant, checks::NOTHING_OVERSOLD);
    assert!(violation.at >= 3 * MINUTE && run.model.now == violation.at, "{violation:?}");
    assert!(!run.model.step(u64::MAX), "nothing happens after it");
}

/// A VM that no lease names any more is one that its lease did not end.
#[test]
fn a_vm_that_outlives_its_lease_is_found() {
    let mut run = Run::new(named("baseline"));
    run.model.run_until(3 * MINUTE);
    run.model.check_all();
    assert!(run.model.violation.is_none());
    let provider = run.model.nodes.iter().position(|node| node.core.is_some() && node.offer.is_some());
    let vms = &mut run.model.nodes[provider.expect("a provider that is up")].vms;
    vms.insert(protocol::names::LeaseId([7; 16]), protocol::units::Resources::SMALL);
    run.model.check_all();
    assert_eq!(run.model.violation.map(|violation| violation.invariant), Some(checks::EVERY_LEASE_ENDS));
}

#[test]
fn a_wrong_file_is_told_the_line_and_the_key() {
    let good = "name = \"x\"\nabout = \"what it shows\"\nminutes = 3\n\n[nodes]\nproviders = 10\n";
    assert!(Scenario::read(good).is_ok());
    let with = |more: &str| format!("{good}{more}");
    for (text, line, word) in [
        ("name = ".to_owned(), 1, ""),
        (with("colour = 1\n"), 7, "colour"),
        (with("public = 101\n"), 7, "nodes.public"),
        (with("vms = \"many\"\n"), 7, "string"),
        (with("skew_s = -1\n"), 7, "-1"),
        (good.replace("minutes = 3", "minutes = 0"), 3, "minutes"),
        (good.replace("minutes = 3", "minutes = 3\nleaf = 2"), 4, "leaf"),
        (good.replace("providers = 10", "providers = 0"), 6, "nodes.providers"),
        (with("[requests]\nper_minute = 3\n"), 5, "nodes.requestors"),
        (with("\n[churn]\npercent_per_minute = 120\n"), 9, "churn.percent_per_minute"),
        (with("\n[churn]\nsilent = 12\n"), 8, "percent_per_minute"),
        (with("\n[partition]\nfrom_minute = 1\nminutes = 2\npercent = 100\n"), 11, "partition.percent"),
        (with("\n[attack]\nkind = \"rain\"\n"), 9, "rain"),
        (with("\n[attack]\nkind = \"false-routers\"\npercent = 95\n"), 10, "attack.percent"),
        (with("\n[links]\ndelays = { uniform = { least = 9, most = 3 } }\n"), 9, "links.delays"),
        (with("\n[expect]\nfrom_minute = 4\n"), 9, "expect.from_minute"),
        (with("\n[expect]\nluck = 1\n"), 9, "luck"),
        (with("\n[full]\nnodes = 0\n"), 9, "full.nodes"),
    ] {
        let fault = Scenario::read(&text).err().unwrap_or_else(|| panic!("this was taken: {text}"));
        assert!(
            fault.message.starts_with(&format!("line {line}: ")),
            "{}, and not in line {line} of {text}",
            fault.message
        );
        assert!(fault.message.contains(word), "{} does not name {word}", fault.message);
        assert_eq!(fault.code, protocol::ErrorCode::InvalidRequest);
        assert!(fault.hint.is_some());
    }
}

#[test]
fn a_scenario_grows_in_proportion() {
    let scenario = named("flash-crowd");
    let larger = scenario.clone().sized(scenario.size() * 10);
    assert_eq!(larger.size(), scenario.size() * 10);
    assert_eq!(larger.nodes.requestors, scenario.nodes.requestors * 10);
    assert_eq!(larger.requests.flash, scenario.requests.flash * 10);
    assert!((larger.requests.per_minute - scenario.requests.per_minute * 10.0).abs() < 1e-9);
    let full = scenario.clone().full();
    assert_eq!(Some(full.size()), scenario.full.nodes);
    assert_eq!(Some(full.leaf), scenario.full.leaf);
}
