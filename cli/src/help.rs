//! The help as it is read: commands by what they are for, and examples with each. The texts of single commands stand with
//! their definitions; `examples.txt` holds the command lines, each of which belongs to the command that it runs.
use clap::Command;
use std::fmt::Write;

/// What a command's subcommands are for, in the order of need.
type Groups = &'static [(&'static str, &'static [&'static str])];

const EXAMPLES: &str = include_str!("examples.txt");
const ROOT: Groups = &[
    ("Begin", &["demo", "doctor", "up", "node"]),
    ("Rent", &["provider", "vm", "key"]),
    ("Rent by a file", &["plan", "apply", "delete", "schema"]),
    ("Offer", &["image", "quota", "credit", "job", "ban"]),
    ("What was agreed, and what happened", &["lease", "receipt", "events"]),
    ("Keep the node", &["identity", "db"]),
    ("More", &["sim", "completions", "man", "version", "help"]),
];
const VM: Groups = &[
    ("Rent, keep and give back", &["create", "list", "info", "wait", "renew", "rename", "destroy"]),
    ("Run", &["start", "stop", "restart", "suspend", "resume", "scale"]),
    ("Log in", &["ssh", "exec", "key", "ssh-config", "logs"]),
    ("Move data", &["copy", "forward", "proxy"]),
    ("More", &["help"]),
];

/// The command line with its groups and examples.
pub fn complete(command: Command) -> Command {
    let mut command = grouped(command, ROOT).mut_subcommand("vm", |vm| grouped(vm, VM));
    for (path, lines) in by_command(&command) {
        command = below(command, &path, &|found| with_examples(found, &lines));
    }
    command
}

fn below(command: Command, path: &[String], change: &dyn Fn(Command) -> Command) -> Command {
    match path.split_first() {
        None => change(command),
        Some((name, rest)) => command.mut_subcommand(name, |sub| below(sub, rest, change)),
    }
}

/// clap has one heading for all subcommands; this is its own layout, with several.
fn grouped(command: Command, groups: Groups) -> Command {
    let width = command.get_subcommands().map(|sub| sub.get_name().len()).max().unwrap_or(0);
    let about = |name: &&str| match command.find_subcommand(name) {
        Some(sub) => {
            let aliases: Vec<&str> = sub.get_visible_aliases().collect();
            let also = if aliases.is_empty() { String::new() } else { format!(" [alias: {}]", aliases.join(", ")) };
            format!("  {name:width$}  {}{also}\n", sub.get_about().map(ToString::to_string).unwrap_or_default())
        }
        None => format!("  {name:width$}  Print this message or the help of a command\n"),
    };
    let mut text = String::new();
    for (heading, names) in groups {
        let rows: String = names.iter().map(about).collect();
        // A string takes whatever is written to it.
        let _ = writeln!(text, "{heading}:\n{rows}");
    }
    let template =
        format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}Options:\n{{options}}{{after-help}}");
    command.help_template(template)
}

/// The examples by the path of their command, in the file's order.
fn by_command(root: &Command) -> Vec<(Vec<String>, Vec<&'static str>)> {
    let mut found: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
    for line in EXAMPLES.lines() {
        let path = path_of(root, line);
        match found.iter_mut().find(|(known, _)| *known == path) {
            Some((_, lines)) => lines.push(line),
            None => found.push((path, vec![line])),
        }
    }
    found
}

/// `golemnode vm create web` is an example of `vm create`.
fn path_of(root: &Command, line: &str) -> Vec<String> {
    let mut path = Vec::new();
    let mut command = root;
    let words = line.split_whitespace().skip_while(|word| *word != root.get_name()).skip(1);
    for sub in words.map_while(|word| {
        command = command.find_subcommand(word)?;
        Some(command.get_name().to_owned())
    }) {
        path.push(sub);
    }
    path
}

fn with_examples(command: Command, lines: &[&str]) -> Command {
    let width = lines.iter().map(|line| parts(line).0.len()).max().unwrap_or(0);
    let mut text = String::from("Examples:");
    for line in lines {
        let row = match parts(line) {
            (example, Some(why)) => format!("\n  {example:width$}  # {why}"),
            (example, None) => format!("\n  {example}"),
        };
        text.push_str(&row);
    }
    if let Some(more) = command.get_after_long_help().or(command.get_after_help()) {
        text.push_str(&format!("\n\n{more}"));
    }
    command.after_long_help(text)
}

/// A command line, and what there is to say of it.
fn parts(line: &str) -> (&str, Option<&str>) {
    match line.split_once(" # ") {
        Some((example, why)) => (example.trim_end(), Some(why)),
        None => (line, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, path: &[String], found: &mut Vec<Vec<String>>) {
        let below: Vec<&Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
        if below.is_empty() {
            found.push(path.to_vec());
        }
        for sub in below {
            leaves(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
        }
    }

    #[test]
    fn each_command_stands_in_one_group() {
        let command = crate::command();
        for (command, groups) in [(&command, ROOT), (command.find_subcommand("vm").unwrap(), VM)] {
            let mut named: Vec<&str> = groups.iter().flat_map(|(_, names)| *names).copied().collect();
            let mut there: Vec<&str> = command.get_subcommands().map(Command::get_name).chain(["help"]).collect();
            named.sort_unstable();
            there.sort_unstable();
            assert_eq!(named, there);
        }
    }

    #[test]
    fn each_command_has_an_example_and_each_example_is_one() {
        let command = crate::command();
        let examples = by_command(&command);
        let mut all = Vec::new();
        leaves(&command, &[], &mut all);
        for path in all {
            assert!(examples.iter().any(|(known, _)| *known == path), "{path:?} has no example");
        }
        for line in EXAMPLES.lines() {
            let (example, _) = parts(line);
            assert!(example.len() < 100, "{line}");
            let words = example.split_whitespace().skip_while(|word| *word != "golemnode");
            let shell = |word: &&str| !["<", ">", ">>"].contains(word);
            let peer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
            let lease = "0".repeat(32);
            let words = words.take_while(shell).map(|word| match word {
                "PEER" => peer,
                "LEASE" => &lease,
                "HEX" => "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                _ => word,
            });
            command.clone().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
