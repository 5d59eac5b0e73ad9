//! `make crash-test`: hundreds of kills, in rounds with homes of their own. What is done is appended to a file, so that
//! a run that was ended goes on where it stood. Prints where the kills hit, and fails when something was leaked or lost.
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tests::crash::{Aims, suffer};
use tests::guest;

/// Kills of one provider; then another takes its place.
const ROUND: u32 = 20;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let kills: u32 = args.next().map_or(500, |text| text.parse().expect("how many kills"));
    let file = PathBuf::from(args.next().unwrap_or_else(|| "out/crash.jsonl".to_owned()));
    let Some(bundle) = guest("tiny") else { return ExitCode::FAILURE };
    let mut done = read(&file);
    println!("{} kills of {kills} are done", done.len());
    let mut aims = Aims::default();
    done.iter().for_each(|killed| aims.learn(killed));
    while (done.len() as u32) < kills {
        let round = (kills - done.len() as u32).min(ROUND);
        let mut out =
            std::fs::OpenOptions::new().create(true).append(true).open(&file).expect("the file can be written");
        suffer(&bundle, done.len() as u64, round, &mut aims, |killed| {
            let line = killed.to_json();
            println!("{line}");
            writeln!(out, "{line}").expect("the file can be written");
            done.push(line);
        });
    }
    report(&done)
}

fn read(file: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn report(done: &[Value]) -> ExitCode {
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    for killed in done {
        let steps: Vec<&str> = killed["steps"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if steps.is_empty() {
            *hits.entry("nothing under way".into()).or_default() += 1;
        }
        for step in steps {
            *hits.entry(step.to_owned()).or_default() += 1;
        }
    }
    for (step, times) in hits {
        println!("{times:>6}  {step}");
    }
    let mut mended: Vec<u64> = done.iter().filter_map(|killed| killed["mended_ms"].as_u64()).collect();
    mended.sort_unstable();
    let at = |share: usize| Duration::from_millis(mended.get(mended.len() * share / 100).copied().unwrap_or(0));
    println!("{} kills; mended after {:?} in the median, {:?} in 99 of 100", done.len(), at(50), at(99));
    let amiss: Vec<&Value> = done.iter().filter(|killed| !killed["amiss"].is_null()).collect();
    for killed in &amiss {
        println!("amiss: {killed}");
    }
    if amiss.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
