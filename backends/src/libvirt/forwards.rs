//! Where a guest's ports are reached. QEMU's user-mode network listens on the host's loopback for each, at a port that
//! it picks itself, so what is asked is asked of its monitor.
use super::Host;
use super::domain::{must_run, refused};
use super::xml::NETDEV;
use protocol::names::LeaseId;
use protocol::{ErrorCode, Fault};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use virt::domain::Domain;
use virt::sys;

/// The tenant chooses the port, and each is a socket of QEMU's and a port of the host's loopback until the guest
/// stops. Enough for whatever runs in one guest; without a bound one tenant takes all that the host has.
pub const MAX_FORWARDS: usize = 64;
/// The monitor's human language; its answers are text.
const HMP: u32 = sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;

/// What is known of each running guest. Entries go with their VM.
#[derive(Default)]
pub struct Forwards(Mutex<HashMap<LeaseId, Arc<Mutex<Known>>>>);

#[derive(Default)]
pub struct Known {
    /// Which run of the guest this is about: the connection's and the domain's number, which change with each.
    run: (u64, u32),
    ports: HashMap<u16, SocketAddr>,
}

impl Forwards {
    pub fn forget(&self, id: LeaseId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
    /// Its lock is also what keeps two from talking to one guest's monitor at once.
    pub fn of(&self, id: LeaseId) -> Arc<Mutex<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }
}

impl Host {
    pub(super) fn endpoint(&self, id: LeaseId, port: u16) -> Result<SocketAddr, Fault> {
        if port == 0 {
            return Err(Fault::invalid("a guest has no port 0"));
        }
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "reached")?;
        must_run(&domain, id, "reached")?;
        let number = domain.id().unwrap_or_default();
        // One VM's monitor that does not answer holds up nobody else.
        let known = self.forwards.of(id);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let run = (self.connection.generation(), number);
        if known.run != run {
            *known = Known { run, ports: HashMap::new() };
        }
        if let Some(address) = known.ports.get(&port) {
            return Ok(*address);
        }
        known.ports = self.asked(id, &domain)?;
        if !known.ports.contains_key(&port) {
            if known.ports.len() >= MAX_FORWARDS {
                let said = format!("{MAX_FORWARDS} ports of VM {id} are forwarded already");
                return Err(Fault::new(ErrorCode::TooManyRequests, said).hint("a restart of the VM frees them"));
            }
            let add = format!("hostfwd_add {NETDEV} tcp:127.0.0.1:0-:{port}");
            self.monitor(id, &domain, &add)?;
            known.ports = self.asked(id, &domain)?;
        }
        let address = known.ports.get(&port).copied();
        address.ok_or_else(|| Fault::new(ErrorCode::PortBlocked, format!("QEMU does not forward port {port}")))
    }

    fn asked(&self, id: LeaseId, domain: &Domain) -> Result<HashMap<u16, SocketAddr>, Fault> {
        Ok(parse_forwards(&self.monitor(id, domain, "info usernet")?))
    }

    pub(super) fn monitor(&self, id: LeaseId, domain: &Domain, command: &str) -> Result<String, Fault> {
        domain.qemu_monitor_command(command, HMP).map_err(|error| refused(id, "ask QEMU for its ports", &error))
    }
}

/// Lines such as `TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15 22  0 0`.
pub(crate) fn parse_forwards(text: &str) -> HashMap<u16, SocketAddr> {
    let forward = |line: &str| {
        let mut words = line.trim().strip_prefix("TCP[HOST_FORWARD]")?.split_whitespace().skip(1);
        let (host, port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((words.nth(1)?.parse().ok()?, SocketAddr::new(host, port)))
    };
    text.lines().filter_map(forward).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_table_of_forwards_is_read() {
        let text = "Hub -1 (n0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n\
            \x20 TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    22     0     0\n\
            \x20 TCP[ESTABLISHED]   13       127.0.0.1 40123       10.0.2.15    22     0     0\n\
            \x20 TCP[HOST_FORWARD]  14       127.0.0.1 40124       10.0.2.15  8080     0     0\n";
        let forwards = parse_forwards(text);
        assert_eq!(forwards.get(&22), Some(&"127.0.0.1:40123".parse().unwrap()));
        assert_eq!(forwards.len(), 2);
    }
}
