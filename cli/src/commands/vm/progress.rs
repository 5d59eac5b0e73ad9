//! The stages of a create, on stderr: a bar on a terminal, plain lines elsewhere, and with `--json` nothing that could
//! stand before the error's JSON.
use crate::context::Context;
use indicatif::{ProgressBar, ProgressStyle};
use node::api::types::CreateStage;
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
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
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
