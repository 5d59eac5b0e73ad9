//! Completions that know what there is: the script of a shell asks this binary at each Tab, and this asks the node. No node
//! is started for it: where none runs, what is in files is all that is offered.
use crate::commands::{key, vm::word};
use backends::images::ImageStore;
use clap::Command;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use node::api::client::{Client, is_alive};
use node::api::types::{JobView, LeaseView, ProviderQuery, ProviderView, VmStatus, VmView};
use node::config::Home;
use protocol::Fault;
use protocol::names::IsolationWanted;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Set by the shells' scripts.
const VARIABLE: &str = "GOLEMNODE_COMPLETE";
/// Somebody waits for the answer with a finger on the key.
const PATIENCE: Duration = Duration::from_secs(1);

type Candidates = fn() -> Vec<CompletionCandidate>;
/// In the command of this path and all below it, arguments of this name; the last one counts.
const LIVE: [(&[&str], &str, Candidates); 15] = [
    (&["vm"], "name", vms),
    (&["vm"], "names", vms),
    // A new one is not to be one that is there.
    (&["vm", "create"], "name", Vec::new),
    (&["vm", "copy"], "sources", vms_with_colon),
    (&["vm", "copy"], "target", vms_with_colon),
    (&["vm", "create"], "provider", peers),
    (&["vm", "create"], "image", images),
    (&["vm", "create"], "ssh_key", keys),
    (&["provider"], "image", images),
    (&["provider"], "peer", peers),
    (&["lease"], "lease", leases),
    (&["receipt"], "lease", leases),
    (&["image"], "name", own_images),
    (&["key", "remove"], "name", keys),
    (&["job"], "id", jobs),
];

/// Answers a shell, if one asks.
pub fn answer(words: &[OsString]) -> Result<bool, clap::Error> {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(|| live(crate::command())).var(VARIABLE).try_complete(words.to_vec(), here.as_deref())
}

/// What a shell reads once, and asks this binary with from then on.
pub fn script(shell: clap_complete::Shell) -> Result<String, Fault> {
    let (shells, name) = (Shells::builtins(), shell.to_string());
    let none = || Fault::internal(format!("no completions for {name}"));
    let completer = shells.completer(&name).ok_or_else(none)?;
    let mut text = Vec::new();
    let written = completer.write_registration(VARIABLE, "golemnode", "golemnode", "golemnode", &mut text);
    written.map_err(|error| Fault::internal(format!("no completions: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn live(command: Command) -> Command {
    LIVE.into_iter().fold(command, |command, (path, arg, candidates)| {
        below(command, path, &|command| every(command, arg, candidates))
    })
}

fn below(command: Command, path: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
    match path.split_first() {
        None => change(command),
        Some((name, rest)) => command.mut_subcommand(name, |sub| below(sub, rest, change)),
    }
}

/// In this command and all below it. The arguments keep their order, which is what tells positional ones apart.
fn every(command: Command, wanted: &'static str, candidates: Candidates) -> Command {
    let command = command.mut_subcommands(|sub| every(sub, wanted, candidates));
    command.mut_args(|arg| if arg.get_id() == wanted { arg.add(ArgValueCandidates::new(candidates)) } else { arg })
}

/// The home that the words on the line name, as any command finds it.
fn home() -> Option<Home> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let joined = |word: &OsString| word.to_str()?.strip_prefix("--home=").map(PathBuf::from);
    let apart = words.windows(2).find(|pair| pair[0] == "--home").map(|pair| PathBuf::from(&pair[1]));
    Home::find(apart.or_else(|| words.iter().find_map(joined))).ok()
}

/// What the running node says, if it says it soon.
fn asked<T>(question: impl AsyncFnOnce(&Client) -> Result<Vec<T>, Fault>) -> Vec<T> {
    let ask = || {
        let home = home().filter(is_alive)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let client = Client::new(&home);
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(&client)).await });
        answer.ok()?.ok()
    };
    ask().unwrap_or_default()
}

fn candidate(value: impl ToString, about: String) -> CompletionCandidate {
    CompletionCandidate::new(value.to_string()).help(Some(about.into()))
}

fn vms() -> Vec<CompletionCandidate> {
    let about = |vm: &VmView| format!("{}, {}", word(vm.status), vm.image);
    asked(async |node| node.vms().await).iter().map(|vm| candidate(&vm.name, about(vm))).collect()
}

fn vms_with_colon() -> Vec<CompletionCandidate> {
    let running = |vm: &&VmView| vm.status == VmStatus::Running;
    let found = asked(async |node| node.vms().await);
    found.iter().filter(running).map(|vm| candidate(format!("{}:", vm.name), vm.image.to_string())).collect()
}

fn on_the_board() -> Vec<ProviderView> {
    let all = ProviderQuery { isolation: Some(IsolationWanted::Any), ..ProviderQuery::default() };
    asked(async |node| node.providers(&all).await)
}

fn peers() -> Vec<CompletionCandidate> {
    let name = |peer: &ProviderView| peer.name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default();
    let about =
        |peer: &ProviderView| format!("{}{} free, {} {}/h", name(peer), peer.free, peer.price_per_hour, peer.currency);
    on_the_board().iter().map(|peer| candidate(peer.peer_id, about(peer))).collect()
}

fn images() -> Vec<CompletionCandidate> {
    let mut names: Vec<_> = on_the_board().into_iter().flat_map(|peer| peer.images).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|image| CompletionCandidate::new(image.to_string())).collect()
}

fn own_images() -> Vec<CompletionCandidate> {
    let found = home().and_then(|home| ImageStore::new(home.images()).list().ok()).unwrap_or_default();
    found.into_iter().map(|image| CompletionCandidate::new(image.name.to_string())).collect()
}

fn keys() -> Vec<CompletionCandidate> {
    let found = home().and_then(|home| key::list(&home).ok()).unwrap_or_default();
    found.into_iter().map(|key| CompletionCandidate::new(key.name.0)).collect()
}

fn leases() -> Vec<CompletionCandidate> {
    let about = |lease: &LeaseView| format!("{}, {}", lease.state, lease.image);
    asked(async |node| node.leases().await).iter().map(|lease| candidate(lease.id, about(lease))).collect()
}

fn jobs() -> Vec<CompletionCandidate> {
    let about = |job: &JobView| format!("{}, {}", job.kind, job.state);
    asked(async |node| node.jobs().await).iter().map(|job| candidate(job.id, about(job))).collect()
}
