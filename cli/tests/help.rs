//! The whole help is one text: a change of the contract shows up as a change of this file.
use std::fmt::Write;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
/// Set to write the file anew.
const UPDATE: &str = "GOLEMNODE_UPDATE_HELP";

fn collect(command: &mut clap::Command, path: &str, text: &mut String) {
    let help = command.render_long_help();
    writeln!(text, "## {path}\n\n{help}").unwrap();
    let mut below: Vec<clap::Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect();
    for sub in &mut below {
        if sub.get_name() != "help" {
            let path = format!("{path} {}", sub.get_name());
            collect(sub, &path, text);
        }
    }
}

#[test]
fn the_help_is_what_was_agreed() {
    let mut text = String::new();
    let mut command = cli::command().term_width(100);
    command.build();
    collect(&mut command, "golemnode", &mut text);
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let agreed = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    if let Some((line, (old, new))) = agreed.lines().zip(text.lines()).enumerate().find(|(_, (old, new))| old != new) {
        panic!("line {}: '{old}' is now '{new}'; {UPDATE}=1 writes {SNAPSHOT} anew", line + 1);
    }
    assert_eq!(agreed.lines().count(), text.lines().count(), "{UPDATE}=1 writes {SNAPSHOT} anew");
}

#[test]
fn the_definition_is_sound() {
    cli::command().debug_assert();
}
