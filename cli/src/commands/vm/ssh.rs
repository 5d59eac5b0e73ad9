//! `golemnode vm ssh|exec|ssh-config`: OpenSSH is the client, the tunnel its `ProxyCommand`.
use super::running;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use clap::Args;
use node::api::types::{VmSsh, VmView};
use node::ssh::SshDir;
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

#[derive(Args)]
pub struct SshArgs {
    /// Its name or id
    name: String,
    /// Options of ssh, and a command for the guest's shell
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

#[derive(Args)]
pub struct ExecArgs {
    /// Its name or id
    name: String,
    /// With a terminal in the guest, also when this is none
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,
    /// Without one, also when this is a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// The command and its arguments, which reach the guest as they are
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Interactive, or a command as ssh takes it.
pub fn ssh(context: &Context, args: SshArgs) -> Outcome {
    let (vm, ssh) = reachable(context, &args.name).map_err(ours)?;
    let mut command = client("ssh", context, &vm, &ssh).map_err(ours)?;
    // ssh goes on reading options behind the host, so both kinds of arguments may follow.
    command.arg(&ssh.host_alias).args(args.args);
    Err(become_it(command))
}

impl ExecArgs {
    /// As ssh takes it; unless told, what is run from a terminal has one.
    fn terminal(&self) -> &'static str {
        let here = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        match (self.tty, self.no_tty, here) {
            (true, _, _) => "-tt",
            (_, true, _) | (_, _, false) => "-T",
            _ => "-t",
        }
    }
}

/// A command, word by word, and without a question.
pub fn exec(context: &Context, args: ExecArgs) -> Outcome {
    let (vm, ssh) = reachable(context, &args.name).map_err(ours)?;
    let mut command = client("ssh", context, &vm, &ssh).map_err(ours)?;
    let words: Vec<String> = args.command.iter().map(|word| quoted(word)).collect();
    command.args([args.terminal(), "-o", "BatchMode=yes", "--", &ssh.host_alias, &words.join(" ")]);
    Err(become_it(command))
}

/// The guest's exit codes are its own, so all of ours are one.
fn ours(failure: impl Into<Failure>) -> Failure {
    match failure.into() {
        Failure::Fault(fault) => Failure::Ours(fault),
        other => other,
    }
}

pub(super) fn reachable(context: &Context, name: &str) -> Result<(VmView, VmSsh), Failure> {
    let vm = super::find(context, name)?;
    running(&vm)?;
    let ssh = vm.ssh.clone().ok_or_else(|| {
        Fault::new(ErrorCode::WrongState, format!("'{}' has no way in yet", vm.name))
            .hint(format!("'golemnode vm wait {} running' waits for it", vm.name))
    })?;
    Ok((vm, ssh))
}

/// ssh or scp, with the options of `vm ssh-config` and without the user's own configuration, which could lead elsewhere (a
/// `Host *` with a shared connection that outlived an earlier VM of this name).
pub(super) fn client(program: &str, context: &Context, vm: &VmView, ssh: &VmSsh) -> Result<Command, Fault> {
    let mut command = Command::new(program);
    command.args(["-F", "none"]);
    let loud = context.global.verbose > 0;
    for (key, value) in SshDir::new(&context.home()?).options(&own_path()?, &vm.name, ssh) {
        if !(loud && key == "LogLevel") {
            command.arg("-o").arg(format!("{key}={value}"));
        }
    }
    if loud {
        command.arg("-v");
    }
    Ok(command)
}

fn own_path() -> Result<PathBuf, Fault> {
    std::env::current_exe().map_err(|error| Fault::internal(format!("no path to golemnode: {error}")))
}

/// Becomes ssh: signals, the terminal and the exit code are its own. Returns only when that fails.
pub(super) fn become_it(mut command: Command) -> Failure {
    let error = command.exec();
    Failure::Ours(match error.kind() {
        std::io::ErrorKind::NotFound => Fault::new(ErrorCode::Unavailable, "ssh is missing")
            .hint("install openssh-client (Debian, Ubuntu) or openssh"),
        _ => Fault::internal(format!("ssh cannot be run: {error}")),
    })
}

/// One word of a POSIX shell. A leading dash is quoted too, though quotes do not hide it from a program.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[derive(Serialize)]
struct HostBlock {
    name: String,
    host_alias: String,
    config: String,
}

pub fn config(context: &Context, names: &[String]) -> Outcome {
    let node = context.node()?;
    let vms = if names.is_empty() {
        context.block_on(async { node.vms().await })?
    } else {
        context.block_on(async {
            let mut vms = Vec::new();
            for name in names {
                vms.push(node.vm(name).await?);
            }
            Ok(vms)
        })?
    };
    let (own, dir) = (own_path()?, SshDir::new(&context.home()?));
    let block = |vm: &VmView| {
        let ssh = vm.ssh.as_ref()?;
        let config = dir.config_block(&own, &vm.name, ssh);
        Some(HostBlock { name: vm.name.to_string(), host_alias: ssh.host_alias.clone(), config })
    };
    let blocks: Vec<HostBlock> = vms.iter().filter_map(block).collect();
    context.show(&blocks, || blocks.iter().map(|block| block.config.as_str()).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_as_they_are() {
        for (word, shell) in
            [("ls", "ls"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$HOME", "'$HOME'"), ("-l", "-l")]
        {
            assert_eq!(quoted(word), shell);
        }
        let words = ["printf", "%s|", "a b", "", "$x", "it's", "*", "\n", "`id`", "\\"];
        let line = words.map(quoted).join(" ");
        let said = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "a b||$x|it's|*|\n|`id`|\\|");
    }
}
