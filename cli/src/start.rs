//! The node that the first command starts: detached, under a file lock, so that commands at once share one.
use crate::args::Global;
use node::api::client::{self, Client};
use node::config::{Home, io};
use protocol::{ErrorCode, Fault};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Opening the store after a crash is what takes longest.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Another command may be starting the node; it has its own deadline.
const LOCK_DEADLINE: Duration = Duration::from_secs(25);
/// The first answer is some 50 ms away; a file system has no event for "the socket answers".
const POLL: Duration = Duration::from_millis(10);
/// After this the started node leaves by itself.
const IDLE_EXIT: &str = "5m";
/// A log is kept across starts up to this size.
const MOST_LOG: u64 = 1 << 20;
/// Where the last line of a log is looked for.
const LOG_TAIL: u64 = 4096;

/// Makes sure that a node answers; true when it was started here, with the flags that were given.
pub fn ensure(home: &Home, global: &Global) -> Result<bool, Fault> {
    if client::is_alive(home) {
        return Ok(false);
    }
    home.create()?;
    let _lock = lock(home)?;
    if client::is_alive(home) {
        return Ok(false);
    }
    start(home, global)?;
    Ok(true)
}

/// A node that runs already joins through the addresses given; it cannot change its network.
pub async fn join(client: &Client, global: &Global) -> Result<(), Fault> {
    if let Some(wanted) = &global.network {
        let running = client.status().await?.network;
        if running != wanted.as_str() {
            return Err(Fault::invalid(format!(
                "the node that runs here is of the network '{running}', not '{wanted}'"
            ))
            .hint("'golemnode node stop' ends it; --home names another home"));
        }
    }
    if !global.bootstrap.is_empty() {
        client.dial(&global.bootstrap).await?;
    }
    Ok(())
}

/// Held until the socket answers; released by the operating system if this process dies.
fn lock(home: &Home) -> Result<File, Fault> {
    let path = home.start_lock();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|error| io("lock", &path, &error))?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(Fault::new(ErrorCode::Timeout, "another command has been starting the node for too long")
                .hint(format!("look into {}", home.log().display())));
        }
        sleep(POLL);
    }
    Ok(file)
}

fn start(home: &Home, global: &Global) -> Result<(), Fault> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut child = spawn(home, global)?;
    loop {
        if client::is_alive(home) {
            return Ok(());
        }
        let ended = child.try_wait().map_err(|error| Fault::internal(format!("the node is lost: {error}")))?;
        if ended.is_some() {
            let (last, hint) = last_words(home);
            // A node that is just leaving still holds the home.
            if !last.contains("runs on") || Instant::now() > deadline {
                return Err(gone(home, &last, hint));
            }
            sleep(POLL * 10);
            child = spawn(home, global)?;
        }
        if Instant::now() > deadline {
            // One that never answered must not go on unseen.
            let _ = child.kill();
            let _ = child.wait();
            let late = format!("the node did not answer within {} s: {}", START_DEADLINE.as_secs(), last_words(home).0);
            return Err(Fault::new(ErrorCode::Timeout, late).hint(format!("look into {}", home.log().display())));
        }
        sleep(POLL);
    }
}

fn spawn(home: &Home, global: &Global) -> Result<Child, Fault> {
    let own = std::env::current_exe().map_err(|error| Fault::internal(format!("no path to golemnode: {error}")))?;
    let log = log(home)?;
    let mut command = Command::new(own);
    command.arg("--home").arg(home.root());
    for address in &global.bootstrap {
        command.arg("--bootstrap").arg(address);
    }
    if let Some(network) = &global.network {
        command.arg("--network").arg(network.as_str());
    }
    // It leaves this session as its first act: Ctrl-C and a terminal's end are for the command, not for the node that
    // others may use by now.
    command.args(["--color", "never", "node", "run", "--detached", "--idle-exit", IDLE_EXIT]);
    let error_log = log.try_clone().map_err(|error| io("open", &home.log(), &error))?;
    command.stdin(Stdio::null()).stdout(log).stderr(error_log).current_dir(home.root());
    command.spawn().map_err(|error| Fault::internal(format!("the node cannot be started: {error}")))
}

fn log(home: &Home) -> Result<File, Fault> {
    let path = home.log();
    if path.metadata().is_ok_and(|data| data.len() > MOST_LOG) {
        let old = path.with_extension("log.1");
        std::fs::rename(&path, &old).map_err(|error| io("rename", &path, &error))?;
    }
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    opened.map_err(|error| io("open", &path, &error))
}

/// The last error in the log (its last line where there is none), and the hint beside it.
fn last_words(home: &Home) -> (String, Option<String>) {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(home.log())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let error = lines.iter().rposition(|line| line.starts_with("error["));
    let last = error.map(|at| lines[at]).or(lines.last().copied()).unwrap_or("it said nothing").to_owned();
    let hint = error.and_then(|at| lines[at..].iter().find_map(|line| line.strip_prefix("hint: ")));
    (last, hint.map(str::to_owned))
}

/// The node's own fault, with its own code where its last line has one.
fn gone(home: &Home, last: &str, hint: Option<String>) -> Fault {
    let code = ErrorCode::ALL.iter().find(|code| last.starts_with(&format!("error[{code}]: ")));
    let message = code.map_or(last, |code| &last[format!("error[{code}]: ").len()..]);
    Fault::new(code.copied().unwrap_or(ErrorCode::Internal), format!("the node did not start: {message}"))
        .hint(hint.unwrap_or_else(|| format!("look into {}", home.log().display())))
}
