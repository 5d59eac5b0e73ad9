//! A little internet in network namespaces of its own: three sites that a router joins, one with a public host, two
//! behind a NAT each. Nothing of it is connected to this machine's networks, and all of it goes when the value does.
//!
//! ```text
//!   relay ── 192.0.2.1 ─────────┐
//!                               │
//!   a 10.0.1.2 ─ nat a ─ 198.51.100.1 ── net ── 203.0.113.1 ─ nat b ─ 10.0.2.2 b
//! ```
//! The NATs are Linux's own, as home routers have them. Masquerading keeps the port where it can, and gives the same
//! one towards everybody, so it is *endpoint-independent* as long as the port is free outside; with `--random-fully`
//! each destination gets another port, which makes it *symmetric*. Both let in only what answers to something that went
//! out to that very address and port (port-restricted), and swallow the rest without a word.
use std::process::{Child, Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    Cone,
    Symmetric,
}

pub struct World {
    prefix: String,
}

const SPACES: [&str; 6] = ["net", "relay", "nata", "natb", "a", "b"];
pub const RELAY: &str = "192.0.2.1";

impl World {
    /// Why there can be none here, where there can be none.
    pub fn new(name: &str, a: Nat, b: Nat) -> Result<World, String> {
        let world = World { prefix: format!("gn{}{name}-", std::process::id()) };
        world.check()?;
        for space in SPACES {
            world.ip(&["netns", "add", &world.space(space)]);
            world.run(space, "ip", &["link", "set", "lo", "up"]);
            // Without neighbours' chatter; the addresses here are of version 4.
            world.run(space, "sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        }
        world.cable("relay", "192.0.2.1/24", "net", "192.0.2.254/24");
        world.cable("nata", "198.51.100.1/24", "net", "198.51.100.254/24");
        world.cable("natb", "203.0.113.1/24", "net", "203.0.113.254/24");
        world.cable("a", "10.0.1.2/24", "nata", "10.0.1.1/24");
        world.cable("b", "10.0.2.2/24", "natb", "10.0.2.1/24");
        for router in ["net", "nata", "natb"] {
            world.run(router, "sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        }
        world.masquerade("nata", a);
        world.masquerade("natb", b);
        Ok(world)
    }

    fn check(&self) -> Result<(), String> {
        if !is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let probe = self.space("probe");
        let made = Command::new("ip").args(["netns", "add", &probe]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("no network namespace can be made here (ip netns add)".to_owned());
        }
        let rule = ["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE", "--random-fully"];
        let nat = self.command("probe", "iptables").args(rule).stderr(Stdio::null()).status();
        self.ip(&["netns", "del", &probe]);
        match nat.is_ok_and(|status| status.success()) {
            true => Ok(()),
            false => Err("no NAT can be made here (iptables -t nat)".to_owned()),
        }
    }

    fn space(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn ip(&self, args: &[&str]) {
        let done = Command::new("ip").args(args).output().expect("ip is there");
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A program inside a namespace.
    pub fn command(&self, space: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(space)]).arg(program).stdin(Stdio::null());
        command
    }

    pub fn run(&self, space: &str, program: &str, args: &[&str]) {
        let done = self.command(space, program).args(args).output().expect("ip is there");
        assert!(done.status.success(), "{space}: {program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn spawn(&self, space: &str, command: Command, log: Stdio) -> Child {
        let mut inside = self.command(space, command.get_program());
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside.stdout(Stdio::null()).stderr(log).spawn().expect("ip is there")
    }

    /// `inner` is the one whose default route goes over the cable; an interface is named after where it leads.
    fn cable(&self, inner: &str, inner_addr: &str, outer: &str, outer_addr: &str) {
        let (inner_space, outer_space) = (self.space(inner), self.space(outer));
        let (to_inner, to_outer) = (format!("to-{inner}"), format!("to-{outer}"));
        let end = ["link", "add", &to_outer, "netns", &inner_space, "type", "veth"];
        self.ip(&[&end[..], &["peer", "name", &to_inner, "netns", &outer_space]].concat());
        for (space, device, addr) in [(inner, &to_outer, inner_addr), (outer, &to_inner, outer_addr)] {
            self.run(space, "ip", &["addr", "add", addr, "dev", device]);
            self.run(space, "ip", &["link", "set", "dev", device, "up"]);
        }
        let gateway = outer_addr.split('/').next().unwrap();
        self.run(inner, "ip", &["route", "add", "default", "via", gateway]);
    }

    /// Nothing gets from one site to the other any more, nor back; without a word.
    pub fn sever(&self, one: &str, other: &str) {
        self.between("-I", one, other);
    }
    pub fn mend(&self, one: &str, other: &str) {
        self.between("-D", one, other);
    }
    fn between(&self, change: &str, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let (from, to) = (format!("to-{from}"), format!("to-{to}"));
            self.run("net", "iptables", &[change, "FORWARD", "-i", &from, "-o", &to, "-j", "DROP"]);
        }
    }

    fn masquerade(&self, router: &str, nat: Nat) {
        let random: &[&str] = if nat == Nat::Symmetric { &["--random-fully"] } else { &[] };
        let masquerade = ["-t", "nat", "-A", "POSTROUTING", "-o", "to-net", "-j", "MASQUERADE"];
        self.run(router, "iptables", &[&masquerade[..], random].concat());
        for chain in ["INPUT", "FORWARD"] {
            let answers = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"];
            self.run(router, "iptables", &[&["-A", chain, "-i", "to-net"][..], &answers].concat());
            self.run(router, "iptables", &["-A", chain, "-i", "to-net", "-j", "DROP"]);
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

impl Drop for World {
    fn drop(&mut self) {
        for space in SPACES {
            // What was not made cannot be removed.
            let _ = Command::new("ip").args(["netns", "del", &self.space(space)]).stderr(Stdio::null()).status();
        }
    }
}
