//! `golemnode vm key`: who may log in to a running guest, by its user's `authorized_keys`.
use super::keys::tenant_key;
use super::ssh::{client, reachable};
use crate::context::{Context, left_alone};
use crate::failure::Outcome;
use crate::output::{dash, table};
use clap::Subcommand;
use node::api::types::{VmSsh, VmView};
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::io::Write;
use std::process::Stdio;

#[derive(Subcommand)]
pub enum AccessCommand {
    /// List the keys that may log in
    List {
        /// Its name or id
        name: String,
    },
    /// Let another key log in
    Add {
        /// Its name or id
        name: String,
        /// A key file (either half), or the name of a pair made by 'golemnode key generate'
        key: String,
    },
    /// Let a key log in no more; the last one stays
    Remove {
        /// Its name or id
        name: String,
        /// Its fingerprint or comment, a key file, or the name of a pair
        key: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Authorized {
    #[serde(rename = "type")]
    kind: String,
    fingerprint: Option<String>,
    comment: Option<String>,
    #[serde(skip)]
    line: String,
}

const LIST: &str = "cat ~/.ssh/authorized_keys 2>/dev/null || true";
/// The line comes by stdin. One that is there already is not there twice, and a last line without an end gets one.
const ADD: &str = r#"umask 077 && mkdir -p ~/.ssh && f=~/.ssh/authorized_keys && touch "$f" && IFS= read -r line &&
if ! grep -qxF -- "$line" "$f"; then
  if [ -n "$(tail -c 1 "$f")" ]; then echo >> "$f"; fi
  printf '%s\n' "$line" >> "$f"
fi"#;
/// The file is replaced as a whole: a guest that loses its power has the old one or the new one.
const REMOVE: &str = r#"umask 077 && f=~/.ssh/authorized_keys && IFS= read -r line &&
{ grep -vxF -- "$line" "$f" > "$f.new"; grep -q '^[^#]' "$f.new"; } && cat "$f.new" > "$f.tmp" && mv "$f.tmp" "$f"
ended=$?; rm -f "$f.new"; exit $ended"#;

pub fn run(context: &Context, command: AccessCommand) -> Outcome {
    match command {
        AccessCommand::List { name } => {
            let keys = Guest::of(context, &name)?.keys()?;
            context.show(&keys, || text(&keys))
        }
        AccessCommand::Add { name, key } => {
            let line = tenant_key(&context.home()?, &key)?.public;
            let guest = Guest::of(context, &name)?;
            guest.run(ADD, &line)?;
            let keys = guest.keys()?;
            context.show(&keys, || text(&keys))
        }
        AccessCommand::Remove { name, key } => {
            let guest = Guest::of(context, &name)?;
            let keys = guest.keys()?;
            let line = chosen(&keys, &key, tenant_key(&context.home()?, &key).ok().map(|key| key.public))?;
            if keys.len() == 1 {
                return Err(Fault::new(ErrorCode::WrongState, format!("it is the last key of '{name}'"))
                    .hint("add another one first; 'golemnode vm destroy' ends the VM")
                    .into());
            }
            if !context.confirm(&format!("let this key log in to '{name}' no more?"))? {
                return left_alone(context);
            }
            guest.run(REMOVE, &line)?;
            let keys = guest.keys()?;
            context.show(&keys, || text(&keys))
        }
    }
}

struct Guest<'a> {
    context: &'a Context,
    vm: VmView,
    ssh: VmSsh,
}

impl<'a> Guest<'a> {
    fn of(context: &'a Context, name: &str) -> Result<Self, crate::failure::Failure> {
        let (vm, ssh) = reachable(context, name)?;
        Ok(Guest { context, vm, ssh })
    }

    fn keys(&self) -> Result<Vec<Authorized>, Fault> {
        Ok(parse(&self.run(LIST, "")?))
    }

    /// A script of the guest's shell, with one line for its stdin.
    fn run(&self, script: &str, line: &str) -> Result<String, Fault> {
        let lost = |error: std::io::Error| Fault::internal(format!("ssh cannot be run: {error}"));
        let mut command = client("ssh", self.context, &self.vm, &self.ssh)?;
        command.args(["-T", "-o", "BatchMode=yes", "--", &self.ssh.host_alias, script]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().map_err(lost)?;
        if let Some(mut stdin) = child.stdin.take() {
            // ssh says why it reads nothing.
            let _ = writeln!(stdin, "{line}");
        }
        let done = child.wait_with_output().map_err(lost)?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let (code, what) = match done.status.code() {
            Some(255) => (ErrorCode::Unreachable, "was not reached"),
            _ => (ErrorCode::WrongState, "did not do it"),
        };
        let fault = Fault::new(code, format!("'{}' {what}", self.vm.name));
        Err(fault.details(String::from_utf8_lossy(&done.stderr).trim().to_owned()).from_peer())
    }
}

fn parse(file: &str) -> Vec<Authorized> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(authorized).collect()
}

/// Options may stand before the type, with blanks in quotes; who reads them is sshd.
fn authorized(line: &str) -> Authorized {
    let kinds = ["ssh-", "ecdsa-", "sk-"];
    let at = line.split_whitespace().position(|word| kinds.iter().any(|kind| word.starts_with(kind))).unwrap_or(0);
    let words: Vec<&str> = line.split_whitespace().skip(at).collect();
    let kind = words.first().copied().unwrap_or_default().to_owned();
    let comment = Some(words.get(2..).unwrap_or_default().join(" ")).filter(|comment| !comment.is_empty());
    let fingerprint = node::ssh::fingerprint(&words.iter().take(2).copied().collect::<Vec<_>>().join(" "));
    Authorized { kind, fingerprint, comment, line: line.to_owned() }
}

/// The line of the one key that is meant.
fn chosen(keys: &[Authorized], wanted: &str, public: Option<String>) -> Result<String, Fault> {
    let wanted_print = public.as_deref().map(|line| authorized(line).fingerprint);
    let is_it = |key: &&Authorized| {
        key.fingerprint.is_some()
            && (key.fingerprint.as_deref() == Some(wanted) || Some(&key.fingerprint) == wanted_print.as_ref())
            || key.comment.as_deref() == Some(wanted)
    };
    let mut found = keys.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key.line.clone()),
        (Some(_), Some(_)) => {
            Err(Fault::invalid(format!("several keys are named '{wanted}'")).hint("say which by its fingerprint"))
        }
        (None, _) => Err(Fault::new(ErrorCode::NoSuchResource, format!("no key '{wanted}' may log in"))
            .hint("'golemnode vm key list NAME' shows those that may")),
    }
}

fn text(keys: &[Authorized]) -> String {
    let row = |key: &Authorized| vec![key.kind.clone(), dash(key.fingerprint.as_ref()), dash(key.comment.as_ref())];
    table(&["TYPE", "FINGERPRINT", "COMMENT"], &keys.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fH one";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI two of us";

    #[test]
    fn keys_are_read_as_sshd_reads_them() {
        let keys = parse(&format!("# mine\n\n{ONE}\ncommand=\"echo a b\",no-pty {TWO}\nnonsense\n"));
        assert_eq!(keys.len(), 3);
        assert_eq!((keys[0].kind.as_str(), keys[0].comment.as_deref()), ("ssh-ed25519", Some("one")));
        assert!(keys[0].fingerprint.as_ref().unwrap().starts_with("SHA256:"));
        assert_eq!((keys[1].kind.as_str(), keys[1].comment.as_deref()), ("ssh-ed25519", Some("two of us")));
        assert_eq!(keys[2].fingerprint, None);
    }

    #[test]
    fn the_key_that_is_meant_is_one() {
        let keys = parse(&format!("{ONE}\n{TWO}\n"));
        let print = keys[1].fingerprint.clone().unwrap();
        assert_eq!(chosen(&keys, "one", None).unwrap(), ONE);
        assert_eq!(chosen(&keys, &print, None).unwrap(), TWO);
        assert_eq!(chosen(&keys, "a.pub", Some(ONE.replace(" one", " elsewhere"))).unwrap(), ONE);
        assert_eq!(chosen(&keys, "three", None).unwrap_err().code, ErrorCode::NoSuchResource);
        let twice = parse(&format!("{ONE}\n{}\n", TWO.replace("two of us", "one")));
        assert_eq!(chosen(&twice, "one", None).unwrap_err().code, ErrorCode::InvalidRequest);
    }

    /// The scripts, in this machine's own shell.
    #[test]
    fn lines_are_added_once_and_removed_whole_and_the_last_stays() {
        let home = tempfile::tempdir().unwrap();
        let run = |script: &str, line: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).env("HOME", home.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // One that only lists may have ended by then.
            match writeln!(child.stdin.take().unwrap(), "{line}") {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("{error}"),
                _ => {}
            }
            let done = child.wait_with_output().unwrap();
            (done.status.success(), String::from_utf8(done.stdout).unwrap())
        };
        assert_eq!(run(LIST, ""), (true, String::new()));
        assert!(run(ADD, ONE).0 && run(ADD, ONE).0);
        assert_eq!(run(LIST, "").1, format!("{ONE}\n"));
        let file = home.path().join(".ssh/authorized_keys");
        std::fs::write(&file, ONE).unwrap();
        assert!(run(ADD, TWO).0);
        assert_eq!(run(LIST, "").1, format!("{ONE}\n{TWO}\n"));
        assert!(run(REMOVE, ONE).0);
        assert_eq!(run(LIST, "").1, format!("{TWO}\n"));
        assert!(!run(REMOVE, TWO).0, "the last one stays");
        assert_eq!(run(LIST, "").1, format!("{TWO}\n"));
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "and nothing beside it");
    }
}
