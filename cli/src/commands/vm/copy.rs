//! `golemnode vm copy`: OpenSSH's scp through the tunnel, with what it shows of its progress; `-` is stdin or stdout.
use super::ssh::{client, quoted, reachable};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use clap::Args;
use protocol::names::VmName;
use protocol::{ErrorCode, Fault};
use std::path::Path;
use std::process::Command;

#[derive(Args)]
#[command(after_help = "Directories are copied whole; modes and times are kept.")]
pub struct CopyArgs {
    /// What: files and directories of this machine, or NAME:PATH of one VM; - for stdin
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<String>,
    /// Where to: NAME:PATH, or a path of this machine; - for stdout
    #[arg(value_name = "DST")]
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Stdio,
    Here(String),
    There { vm: String, path: String },
}

/// As scp reads it: what stands before a colon is a host, unless a slash comes first.
fn place(word: &str) -> Place {
    let named = word.split_once(':').filter(|(name, _)| name.parse::<VmName>().is_ok());
    match named {
        _ if word == "-" => Place::Stdio,
        Some((vm, path)) => Place::There { vm: vm.to_owned(), path: path.to_owned() },
        None => Place::Here(word.to_owned()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Up { vm: String, from: Vec<String>, to: String },
    Down { vm: String, from: Vec<String>, to: String },
    FromStdin { vm: String, to: String },
    ToStdout { vm: String, from: String },
}

fn plan(sources: &[String], target: &str) -> Result<Plan, Fault> {
    let sources: Vec<Place> = sources.iter().map(|source| place(source)).collect();
    let wrong = |what: &str, hint: &str| Err(Fault::invalid(what).hint(hint));
    match (sources.as_slice(), place(target)) {
        ([Place::Stdio], Place::There { vm, path }) if path.is_empty() || path.ends_with('/') => {
            wrong("stdin has no name", &format!("say which file it becomes: {vm}:{path}NAME"))
        }
        ([Place::Stdio], Place::There { vm, path }) => Ok(Plan::FromStdin { vm, to: path }),
        ([Place::There { vm, path }], Place::Stdio) => Ok(Plan::ToStdout { vm: vm.clone(), from: path.clone() }),
        (sources, Place::There { vm, path }) => {
            let here = |place: &Place| if let Place::Here(file) = place { Some(file.clone()) } else { None };
            match sources.iter().map(here).collect() {
                Some(from) => Ok(Plan::Up { vm, from, to: path }),
                None => wrong("what goes to a VM comes from this machine", "copy from one VM to here first"),
            }
        }
        (sources @ [Place::There { vm, .. }, ..], Place::Here(to)) => {
            let there = |place: &Place| match place {
                Place::There { vm: same, path } if same == vm => Some(path.clone()),
                _ => None,
            };
            match sources.iter().map(there).collect() {
                Some(from) => Ok(Plan::Down { vm: vm.clone(), from, to }),
                None => wrong("one copy has one VM on one side", "copy from each VM by itself"),
            }
        }
        _ => wrong("neither side is a VM", "name one: 'golemnode vm copy FILE NAME:PATH', or the other way round"),
    }
}

pub fn run(context: &Context, args: &CopyArgs) -> Outcome {
    let plan = plan(&args.sources, &args.target)?;
    let vm = match &plan {
        Plan::Up { vm, from, .. } => {
            must_exist(from)?;
            vm
        }
        Plan::Down { vm, .. } | Plan::FromStdin { vm, .. } | Plan::ToStdout { vm, .. } => vm,
    };
    let (view, ssh) = reachable(context, vm)?;
    let there = |path: &String| format!("{}:{path}", ssh.host_alias);
    let program = if matches!(plan, Plan::Up { .. } | Plan::Down { .. }) { "scp" } else { "ssh" };
    let mut command = client(program, context, &view, &ssh)?;
    if program == "scp" {
        command.args(["-r", "-p"]).args(context.is_quiet().then_some("-q")).arg("--");
    } else {
        command.args(["-T", "-o", "BatchMode=yes", "--", &ssh.host_alias]);
    }
    match &plan {
        Plan::Up { from, to, .. } => command.args(from.iter().map(|file| local(file))).arg(there(to)),
        Plan::Down { from, to, .. } => command.args(from.iter().map(there)).arg(local(to)),
        Plan::FromStdin { to, .. } => command.arg(format!("cat > {}", shell_path(to))),
        Plan::ToStdout { from, .. } => command.arg(format!("cat -- {}", shell_path(from))),
    };
    finish(program, command, &view.name)
}

/// Before anything is connected: scp would say it in the midst of its other files.
fn must_exist(files: &[String]) -> Result<(), Fault> {
    match files.iter().find(|file| !Path::new(file).exists()) {
        Some(file) => Err(Fault::new(ErrorCode::NoSuchResource, format!("no file '{file}' here"))),
        None => Ok(()),
    }
}

/// A file here whose name scp would take for a host or an option.
fn local(file: &str) -> String {
    let plain = file.starts_with(['/', '.']) || !file.contains(':') && !file.starts_with('-');
    if plain { file.to_owned() } else { format!("./{file}") }
}

/// For the guest's shell, which starts in the user's home.
fn shell_path(path: &str) -> String {
    quoted(path.strip_prefix("~/").unwrap_or(path))
}

/// What failed is on stderr by then.
fn finish(program: &str, mut command: Command, vm: &VmName) -> Outcome {
    let status = command.status().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::new(ErrorCode::Unavailable, format!("{program} is missing"))
            .hint("install openssh-client (Debian, Ubuntu) or openssh"),
        _ => Fault::internal(format!("{program} cannot be run: {error}")),
    })?;
    match status.code() {
        Some(0) => Ok(0),
        Some(255) => {
            Err(Fault::new(ErrorCode::Unreachable, format!("'{vm}' was not reached, or the way broke")).into())
        }
        Some(_) => Err(Fault::new(ErrorCode::NoSuchResource, format!("not all of it was copied, with '{vm}'")).into()),
        None => Err(Failure::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(words: &[&str]) -> Result<Plan, Fault> {
        let (target, sources) = words.split_last().unwrap();
        plan(&sources.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), target)
    }
    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn one_side_is_a_vm() {
        let web = || "web".to_owned();
        let up = |from: &[&str], to: &str| Plan::Up { vm: web(), from: texts(from), to: to.to_owned() };
        assert_eq!(planned(&["a", "b", "web:"]).unwrap(), up(&["a", "b"], ""));
        assert_eq!(planned(&["./x:y", "web:/tmp/z"]).unwrap(), up(&["./x:y"], "/tmp/z"));
        let down = Plan::Down { vm: web(), from: texts(&["/a", "b"]), to: ".".to_owned() };
        assert_eq!(planned(&["web:/a", "web:b", "."]).unwrap(), down);
        assert_eq!(planned(&["-", "web:f"]).unwrap(), Plan::FromStdin { vm: web(), to: "f".to_owned() });
        assert_eq!(planned(&["web:f", "-"]).unwrap(), Plan::ToStdout { vm: web(), from: "f".to_owned() });
        for wrong in [
            &["a", "b"][..],
            &["web:a", "db:b"],
            &["web:a", "db:b", "."],
            &["web:a", "b", "."],
            &["-", "a"],
            &["a", "-"],
            &["-", "b", "web:c"],
            &["-", "web:"],
            &["-", "web:dir/"],
            &["web:a", "web:b", "-"],
        ] {
            assert_eq!(planned(wrong).unwrap_err().code, ErrorCode::InvalidRequest, "{wrong:?}");
        }
    }

    #[test]
    fn a_file_here_is_never_a_host_nor_an_option() {
        for (file, said) in [("a", "a"), ("x:y", "./x:y"), ("-r", "./-r"), ("/x:y", "/x:y"), ("./x", "./x")] {
            assert_eq!(local(file), said);
        }
        assert_eq!((shell_path("~/a b"), shell_path("/etc/x")), ("'a b'".to_owned(), "/etc/x".to_owned()));
    }
}
