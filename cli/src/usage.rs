//! Wrong command lines, in the words of every other error: `error[REQ_001]: …`, a hint, exit 2.
use crate::args::Color;
use crate::context::colored;
use crate::failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use protocol::Fault;
use std::error::Error;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

/// What has to be known even when the command line cannot be read.
pub struct Early {
    json: bool,
    color: Color,
    words: Vec<String>,
}

impl Early {
    pub fn read(words: &[OsString]) -> Self {
        let words: Vec<&str> = words.iter().map_while(|word| word.to_str()).take_while(|word| *word != "--").collect();
        let has = |flag: &str, value: &str| {
            words.windows(2).any(|pair| pair == [flag, value]) || words.contains(&format!("{flag}={value}").as_str())
        };
        let color = match (has("--color", "always"), has("--color", "never")) {
            (true, _) => Color::Always,
            (_, true) => Color::Never,
            _ => Color::Auto,
        };
        Early {
            json: words.contains(&"--json") || has("--format", "json"),
            color,
            words: words.into_iter().map(str::to_owned).collect(),
        }
    }
    pub fn clap_color(&self) -> clap::ColorChoice {
        match self.color {
            Color::Auto => clap::ColorChoice::Auto,
            Color::Always => clap::ColorChoice::Always,
            Color::Never => clap::ColorChoice::Never,
        }
    }
}

/// Help and version are answers; everything else is a fault of the caller's.
pub fn answer(error: &clap::Error, early: &Early) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone away does not make the help a failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let fault = fault_of(error, early);
    failure::print(&fault, early.json, colored(early.color, std::io::stderr().is_terminal()));
    ExitCode::from(fault.code.exit_code())
}

fn fault_of(error: &clap::Error, early: &Early) -> Fault {
    let see_help = format!("'{} --help' shows what it takes", named(&early.words));
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // A value that one of our own types refused comes with its own hint.
    if let Some(fault) = error.source().and_then(|source| source.downcast_ref::<Fault>()) {
        let place = named(ContextKind::InvalidArg).map_or(String::new(), |place| format!("{place}: "));
        return Fault { message: format!("{place}{}", fault.message), ..fault.clone() };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        || error.kind() == ErrorKind::MissingSubcommand
    {
        return Fault::invalid("which command? one is missing").hint(see_help);
    }
    let rendered = error.render().to_string();
    let mut paragraphs = rendered.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first).split_whitespace().collect::<Vec<_>>().join(" ");
    let tip = rendered.lines().find_map(|line| line.trim().strip_prefix("tip: ").map(str::to_owned));
    let hint = match tip {
        // clap's own tips are about passing a value that looks like a flag, which is never meant here.
        Some(tip) if !tip.starts_with("to pass") => tip,
        _ => see_help,
    };
    Fault::invalid(message).hint(hint)
}

/// `golemnode vm create`, whatever stands between and behind.
fn named(words: &[String]) -> String {
    let mut command = crate::command();
    let mut path = vec!["golemnode".to_owned()];
    for word in words.iter().skip(1) {
        if let Some(found) = command.find_subcommand(word) {
            path.push(found.get_name().to_owned());
            command = found.clone();
        }
    }
    path.join(" ")
}
