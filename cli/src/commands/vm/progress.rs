//! The stages of a create, on stderr: a bar on a terminal, plain lines elsewhere, and with `--json` nothing that could
//! stand before the error's JSON.
use crate::context::Context;
use crate::output::seconds;
use indicatif::{ProgressBar, ProgressStyle};
use node::api::types::{CreateStage, EstimateView};
use protocol::history::Scope;
use std::io::IsTerminal;
use std::time::Duration;

/// Fast enough to look alive, slow enough to cost nothing.
const TICK: Duration = Duration::from_millis(120);

pub struct Progress {
    how: How,
    /// With `--json`: said when it is known that no error will follow.
    notices: Vec<String>,
}

enum How {
    Bar(ProgressBar),
    Lines,
    Silent { say_later: bool },
}

impl Progress {
    pub fn new(context: &Context) -> Self {
        let how = match (context.is_quiet(), std::io::stderr().is_terminal(), context.is_json()) {
            (true, ..) => How::Silent { say_later: false },
            (_, true, _) => How::Bar(bar()),
            (_, _, true) => How::Silent { say_later: true },
            _ => How::Lines,
        };
        Progress { how, notices: Vec::new() }
    }
    pub fn stage(&self, stage: CreateStage, message: &str, elapsed_ms: u64) {
        let line = format!("{:<9} {message}", name(stage));
        match &self.how {
            How::Bar(bar) => bar.set_message(line),
            How::Lines => eprintln!("[{:6.1}s] {line}", elapsed_ms as f64 / 1000.0),
            How::Silent { .. } => {}
        }
    }
    /// How long it will probably take, once it is known who makes the VM.
    pub fn estimate(&self, estimate: &EstimateView) {
        let line = expectation(estimate);
        match &self.how {
            How::Bar(bar) => {
                bar.suspend(|| eprintln!("{line}"));
                bar.set_prefix(format!(" of about {}", seconds(estimate.median_ms)));
            }
            How::Lines => eprintln!("{line}"),
            How::Silent { .. } => {}
        }
    }
    pub fn notice(&mut self, message: String) {
        match &self.how {
            How::Bar(bar) => bar.suspend(|| eprintln!("note: {message}")),
            How::Lines => eprintln!("note: {message}"),
            How::Silent { say_later: true } => self.notices.push(message),
            How::Silent { say_later: false } => {}
        }
    }
    /// Takes the bar away; when all went well, says what was held back.
    pub fn end(self, well: bool) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
        for notice in self.notices.iter().filter(|_| well) {
            eprintln!("note: {notice}");
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}{prefix}] {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

pub fn name(stage: CreateStage) -> &'static str {
    match stage {
        CreateStage::Discover => "discover",
        CreateStage::Quote => "quote",
        CreateStage::Lease => "lease",
        CreateStage::Provision => "provision",
        CreateStage::Boot => "boot",
    }
}

/// What past creates say of this one. Of fewer than ten nobody can say what nine of ten took.
fn expectation(estimate: &EstimateView) -> String {
    let whose = match estimate.scope {
        Scope::Provider => " here",
        Scope::Kind => " at providers like this one",
        Scope::All => " elsewhere",
    };
    let (median, most) = (seconds(estimate.median_ms), seconds(estimate.ninth_decile_ms));
    match estimate.samples {
        0 | 1 => format!("took {median}{whose} the last time"),
        few @ 2..10 => format!("usually takes {median}{whose} (at most {most} in {few} creates)"),
        _ => format!("usually takes {median}{whose} (9 of 10 within {most})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_says_what_it_knows_and_no_more() {
        for (samples, median_ms, ninth_decile_ms, scope, line) in [
            (10, 25_000, 40_000, Scope::Provider, "usually takes 25 s here (9 of 10 within 40 s)"),
            (32, 9_940, 9_960, Scope::Kind, "usually takes 9.9 s at providers like this one (9 of 10 within 10 s)"),
            (9, 25_400, 300_000, Scope::All, "usually takes 25 s elsewhere (at most 300 s in 9 creates)"),
            (1, 40, 40, Scope::Provider, "took 0.0 s here the last time"),
        ] {
            let estimate = EstimateView { median_ms, ninth_decile_ms, samples, scope };
            assert_eq!(expectation(&estimate), line);
        }
    }
}
