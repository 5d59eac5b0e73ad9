//! `golemnode sim`: what it prints, what it promises, and how a failure is replayed.
use super::{golemnode, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::Output;

const SMALL: &str = "name = \"small\"\nabout = \"a few nodes\"\nminutes = 4\nleaf = 8\n\n[nodes]\nproviders = 30\n\
                     requestors = 5\nramp_s = 30\n\n[requests]\nper_minute = 10\nfrom_minute = 1\n";

fn file(dir: &Path, text: &str) -> PathBuf {
    let file = dir.join("small.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn sim(dir: &Path, verb: &str, text: &str, args: &[&str]) -> Output {
    let file = file(dir, text);
    golemnode(dir, &[&["sim", verb, file.to_str().unwrap()], args].concat())
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_prints_each_minute_and_the_same_trace_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let table = sim(dir.path(), "run", SMALL, &[]);
    assert!(table.status.success(), "{}", stderr(&table));
    let text = stdout(&table);
    assert!(text.starts_with("MINUTE"), "{text}");
    let minutes = text.lines().skip(1).take_while(|line| !line.is_empty()).count();
    assert_eq!(minutes, 4, "{text}");

    let once = lines(&sim(dir.path(), "run", SMALL, &["--json", "--seed", "9"]));
    let again = lines(&sim(dir.path(), "run", SMALL, &["--json", "--seed", "9"]));
    assert_eq!(once.len(), 5, "four minutes and the summary");
    assert_eq!((once[0]["minute"].as_u64(), once[3]["minute"].as_u64()), (Some(1), Some(4)));
    let summary = &once[4];
    assert_eq!((summary["seed"].as_u64(), summary["nodes"].as_u64()), (Some(9), Some(35)));
    assert_eq!(once[..4], again[..4]);
    assert_eq!(summary["trace"], again[4]["trace"]);
    assert!(text.contains("trace:") && !text.contains(summary["trace"].as_str().unwrap()), "another seed, another run");
    assert!(summary["wall"]["node_seconds_per_second"].as_f64().unwrap() > 0.0);
    let larger = lines(&sim(dir.path(), "run", SMALL, &["--json", "--nodes", "70"]));
    assert_eq!(larger[4]["nodes"], 70);
}

#[test]
fn a_promise_that_is_not_kept_is_a_failure_with_a_replay() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{SMALL}\n[expect]\nmean = 1.0\n");
    let failed = sim(dir.path(), "run", &text, &["--seed", "3"]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    let said = stderr(&failed);
    assert!(said.contains("error[INT_001]: small does not keep what it promises, with seed 3: mean is"), "{said}");
    let replay = said.lines().find_map(|line| line.strip_prefix("hint: replay with: golemnode ")).unwrap();
    assert!(replay.contains("--seed 3") && replay.contains("--until 240000"), "{replay}");
    let words: Vec<&str> = replay.split(' ').collect();
    let again = golemnode(dir.path(), &words);
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    assert!(stderr(&again).contains("mean is"), "{}", stderr(&again));
    let events = stdout(&again);
    assert_eq!(events.lines().count(), 40, "{events}");
    assert!(events.lines().all(|line| line.contains(" ms  ")), "{events}");
    // The last of them came just before the end.
    let at: u64 = events.lines().last().unwrap().trim_start().split(' ').next().unwrap().parse().unwrap();
    assert!((230_000..=240_000).contains(&at), "{at}");
}

#[test]
fn real_nodes_play_a_scenario_in_real_time() {
    let dir = tempfile::tempdir().unwrap();
    let played = "name = \"played\"\nabout = \"a few real nodes\"\nminutes = 1\n\n[nodes]\nproviders = 4\nrequestors = 2\n\n\
                  [links]\ndelays = { uniform = { least = 5, most = 10 } }\n\n[requests]\nper_minute = 10\n\n\
                  [expect]\nrecall = 1.0\ncreated = 0.9\n";
    let run = sim(dir.path(), "run", played, &["--engine", "live", "--json"]);
    assert!(run.status.success(), "{}{}", stdout(&run), stderr(&run));
    let lines = lines(&run);
    assert_eq!(lines.len(), 2, "a minute and the summary");
    assert!(lines[0]["mean"][0].as_f64().unwrap() > 10.0, "bytes were counted: {}", lines[0]);
    let done = lines[1]["done"].as_u64().unwrap();
    assert!(done >= 2 && lines[1]["ready_p50_ms"].as_u64().unwrap() > 0, "{}", lines[1]);
    let refused = sim(dir.path(), "run", &format!("{SMALL}[churn]\npercent_per_minute = 5\n"), &["--engine", "live"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains("error[REQ_001]") && said.contains("[churn]") && said.contains("--engine model"), "{said}");
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = sim(dir.path(), "run", &format!("{SMALL}luck = 1\n"), &[]);
    assert_eq!(wrong.status.code(), Some(2));
    let said = stderr(&wrong);
    assert!(said.contains("small.toml: line 14: unknown field `luck`"), "{said}");
    assert!(said.contains("hint: docs/simulations.md"), "{said}");
    let absent = golemnode(dir.path(), &["sim", "run", "absent.toml"]);
    assert!(!absent.status.success() && stderr(&absent).contains("absent.toml"), "{}", stderr(&absent));
}

#[test]
fn plots_are_written_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let plots = dir.path().join("plots");
    let run = sim(dir.path(), "run", SMALL, &["--plot", plots.to_str().unwrap()]);
    assert!(run.status.success(), "{}", stderr(&run));
    for name in ["bytes", "recall", "rounds", "discover"] {
        let svg = std::fs::read_to_string(plots.join(format!("small-{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg"), "{name}");
    }
}
