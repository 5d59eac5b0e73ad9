//! Whether guests may have a way out, and the firewall that holds it. Nothing is promised that was not tried: the rules
//! are installed, read back, and a process of QEMU's user in a guest's group is refused at the host's own addresses.
//!
//! The rules stay when the node ends, as guests do. They are looked at again every few seconds, since whoever reloads a
//! host's firewall may throw them away, and are removed when no guest is left that needs them.
mod probe;
mod rules;

use super::qemu_user::{self, QemuUser};
use protocol::names::{Digest, Egress, LeaseId};
use rules::{Groups, Surroundings};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where the firewall's tool is: an administrator's, and not on everybody's path.
const NFT: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// How long the rules are taken to be what they were.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// After it was found that there never was a way: what is missing may be installed meanwhile.
const TRY_AGAIN: Duration = Duration::from_secs(60);

pub struct Firewall {
    table: String,
    groups: Groups,
    bytes_per_s: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was installed by us and stood the probe: the text, and how the firewall itself tells it.
    installed: Option<(String, String)>,
    looked: Option<Instant>,
    why_not: Option<String>,
    /// Once they were: guests may live by them.
    held: bool,
    /// Somebody wants to know for certain.
    stale: bool,
}

impl Firewall {
    pub fn new(node: Digest, egress_mbit_per_s: u32) -> Self {
        let table = format!("golemnode_{}", &node.to_string()[..8]);
        let bytes_per_s = u64::from(egress_mbit_per_s) * 1_000_000 / 8;
        Firewall { table, groups: Groups::of(node), bytes_per_s, state: Mutex::default() }
    }

    /// The group that QEMU must run in for a guest with this policy.
    pub fn group(&self, egress: Egress, id: LeaseId) -> Option<u32> {
        self.groups.of_guest(egress, id)
    }

    /// That the rules are there, as they must be now; makes them so where they are not. Otherwise says why not.
    pub fn enforce(&self, user: Option<QemuUser>) -> Result<(), String> {
        let Some(user) = user else {
            return Err("only a node run as root, with libvirt's embedded driver, can hold guests to rules".to_owned());
        };
        let mut state = self.lock();
        let stale = std::mem::take(&mut state.stale);
        let fresh = |age: Duration| !stale && state.looked.is_some_and(|looked| looked.elapsed() < age);
        match &state.why_not {
            None if state.installed.is_some() && fresh(LOOK_AGAIN) => return Ok(()),
            Some(why) if fresh(if state.held { LOOK_AGAIN } else { TRY_AGAIN }) => return Err(why.clone()),
            _ => {}
        }
        let held = self.hold(&mut state, user);
        state.looked = Some(Instant::now());
        state.held |= held.is_ok();
        state.why_not = held.as_ref().err().cloned();
        held
    }

    fn hold(&self, state: &mut State, user: QemuUser) -> Result<(), String> {
        if !qemu_user::groups().contains(&user.gid) {
            // In another group it could not reach its disk.
            return Err(format!("the user {0} is not in the group {0}", user.name));
        }
        let text = rules::table(&self.table, self.groups, &surroundings(), self.bytes_per_s);
        if let Some((wanted, told)) = &state.installed
            && *wanted == text
        {
            if self.told().is_ok_and(|now| now == *told) {
                return Ok(());
            }
            tracing::warn!(table = self.table, "the firewall's rules for guests were changed by somebody: made anew");
        }
        state.installed = None;
        nft(&["-f", "-"], &text)?;
        let told = self.told()?;
        for open in [false, true] {
            let range = self.groups.range(open);
            for group in [*range.start(), *range.end()] {
                probe::is_kept_out(user, group)?;
            }
        }
        state.installed = Some((text, told));
        Ok(())
    }

    /// As the kernel has it, without what it counts.
    fn told(&self) -> Result<String, String> {
        nft(&["-s", "-t", "list", "table", "inet", &self.table], "")
    }

    /// No guest needs it any more.
    pub fn remove(&self) {
        let mut state = self.lock();
        *state = State::default();
        // One that is not there cannot be deleted without having been declared.
        let text = format!("table inet {0}\ndelete table inet {0}\n", self.table);
        if let Err(why) = nft(&["-f", "-"], &text) {
            tracing::debug!(table = self.table, why, "the firewall's rules for guests are left");
        }
    }

    /// Whether this instance has asked for the rules.
    pub fn was_used(&self) -> bool {
        self.lock().looked.is_some()
    }

    /// The next question is answered by a look.
    pub fn doubt(&self) {
        self.lock().stale = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn surroundings() -> Surroundings {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let mut on_link = rules::on_link_4(&read("/proc/net/route"));
    on_link.extend(rules::on_link_6(&read("/proc/net/ipv6_route")));
    Surroundings { resolvers: rules::resolvers(&read("/etc/resolv.conf")), on_link }
}

/// What it prints, or why it does not.
fn nft(args: &[&str], input: &str) -> Result<String, String> {
    for tool in NFT {
        let piped = || Stdio::piped();
        let spawned = Command::new(tool).args(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
        let mut child = match spawned {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{tool}: {error}")),
            Ok(child) => child,
        };
        // A tool that ends before it has read all says why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|error| format!("{tool}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("nft: {}", said.lines().next().unwrap_or("it failed, and does not say why")));
    }
    Err("nft is not installed (package nftables)".to_owned())
}
