//! `golemnode vm forward`: ports of this machine that lead to ports of the guest, until Ctrl-C. Each connection is a
//! tunnel of its own, so that they go on when the guest was restarted or its provider has moved.
use super::proxy::{open_tunnel, pump};
use super::ssh::{become_it, client, reachable};
use super::{find, running};
use crate::args::Global;
use crate::context::Context;
use crate::failure::{self, Outcome};
use clap::Args;
use node::api::client::Tunnel;
use node::config::Home;
use protocol::{ErrorCode, Fault};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Connections at once: two threads each.
const MOST: usize = 256;

#[derive(Args)]
pub struct ForwardArgs {
    /// Its name or id
    name: String,
    /// A port of this machine (0 for any that is free) and the guest's that it leads to; on 127.0.0.1 unless BIND is given
    #[arg(required = true, value_name = "[BIND:]PORT:GUESTPORT")]
    ports: Vec<Forward>,
    /// The other way round: the guest's PORT leads to GUESTPORT of this machine (by ssh -R)
    #[arg(long)]
    remote: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forward {
    bind: Option<IpAddr>,
    port: u16,
    to: u16,
}

impl FromStr for Forward {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let wrong = || {
            Fault::invalid(format!("'{}' is not [BIND:]PORT:GUESTPORT", text.chars().take(60).collect::<String>()))
                .hint("8080:80, 0:22, 192.168.1.5:8080:80 or [::1]:8080:80")
        };
        let (rest, to) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (bind, port) = match rest.rsplit_once(':') {
            Some((bind, port)) => {
                let bare = bind.strip_prefix('[').and_then(|bind| bind.strip_suffix(']')).unwrap_or(bind);
                (Some(bare.parse().map_err(|_| wrong())?), port)
            }
            None => (None, rest),
        };
        let port = port.parse().map_err(|_| wrong())?;
        let to = to.parse().ok().filter(|to| *to > 0).ok_or_else(wrong)?;
        Ok(Forward { bind, port, to })
    }
}

pub fn run(context: &Context, args: &ForwardArgs) -> Outcome {
    if args.remote {
        return remote(context, args);
    }
    let vm = find(context, &args.name)?;
    running(&vm)?;
    let home = context.home()?;
    let mut listeners = Vec::new();
    for forward in &args.ports {
        listeners.push((listen(forward)?, forward.to));
    }
    let door = Arc::new(Door {
        home,
        global: context.global.clone(),
        name: vm.name.to_string(),
        connections: AtomicUsize::new(0),
    });
    for (listener, to) in listeners {
        let at =
            listener.local_addr().map_err(|error| Fault::internal(format!("a port without an address: {error}")))?;
        context.say(format!("{at} leads to port {to} of '{}'; Ctrl-C ends it", vm.name));
        let door = door.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|client| door.admit(client, to)));
    }
    context.block_on(std::future::pending::<Result<(), Fault>>())?;
    Ok(0)
}

fn listen(forward: &Forward) -> Result<TcpListener, Fault> {
    let at = SocketAddr::new(forward.bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), forward.port);
    TcpListener::bind(at).map_err(|error| {
        Fault::new(ErrorCode::PortBlocked, format!("{at} cannot be listened on: {error}"))
            .hint("use another port, or 0 for any that is free")
    })
}

/// What leads to one VM.
struct Door {
    home: Home,
    global: Global,
    name: String,
    connections: AtomicUsize,
}

impl Door {
    fn admit(self: &Arc<Self>, client: TcpStream, to: u16) {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let door = self.clone();
        thread::spawn(move || {
            // That a client or a guest breaks off is how most connections end.
            if let Err(fault) = door.tunnel(to).map(|tunnel| join(&client, tunnel)) {
                failure::print(&fault, false, false);
            }
            door.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn tunnel(&self, to: u16) -> Result<Tunnel, Fault> {
        open_tunnel(&self.global, &self.home, &self.name, to)
    }
}

/// Each direction ends by itself.
fn join(client: &TcpStream, tunnel: Tunnel) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (from, to) = (client.try_clone()?, tunnel.stream.try_clone()?);
    let outward = thread::spawn(move || {
        let sent = pump(&from, &to);
        to.shutdown(Shutdown::Write).and(sent)
    });
    let mut near = client;
    let answered = near.write_all(&tunnel.early).and_then(|()| pump(&tunnel.stream, client));
    client.shutdown(Shutdown::Write)?;
    answered?;
    outward.join().unwrap_or(Ok(()))
}

/// The guest's sshd listens; whatever connects there comes out here.
fn remote(context: &Context, args: &ForwardArgs) -> Outcome {
    let (vm, ssh) = reachable(context, &args.name)?;
    let mut command = client("ssh", context, &vm, &ssh)?;
    command.args(["-N", "-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]);
    for forward in &args.ports {
        let from = match forward.bind {
            Some(bind) => SocketAddr::new(bind, forward.port).to_string(),
            None => forward.port.to_string(),
        };
        command.arg("-R").arg(format!("{from}:127.0.0.1:{}", forward.to));
        context
            .say(format!("port {} of '{}' leads to port {} here; Ctrl-C ends it", forward.port, vm.name, forward.to));
    }
    command.arg("--").arg(&ssh.host_alias);
    Err(become_it(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_forward_is_an_address_here_and_a_port_there() {
        let forward = |bind: Option<&str>, port, to| Forward { bind: bind.map(|bind| bind.parse().unwrap()), port, to };
        for (text, meant) in [
            ("8080:80", forward(None, 8080, 80)),
            ("0:22", forward(None, 0, 22)),
            ("0.0.0.0:1:2", forward(Some("0.0.0.0"), 1, 2)),
            ("[::1]:1:2", forward(Some("::1"), 1, 2)),
        ] {
            assert_eq!(text.parse::<Forward>().unwrap(), meant);
        }
        for wrong in ["", "80", "80:", ":80", "80:0", "a:80", "1:2:3:x", "host:1:2", "65536:1", "1:65536"] {
            assert_eq!(wrong.parse::<Forward>().unwrap_err().code, ErrorCode::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn bytes_go_both_ways_and_ends_are_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        let (tunnel, mut guest) = UnixStream::pair().unwrap();
        let joined = thread::spawn(move || join(&near, Tunnel { stream: tunnel, early: b"hello ".to_vec() }));
        client.write_all(b"ping").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        guest.read_to_string(&mut said).unwrap();
        guest.write_all(b"pong").unwrap();
        drop(guest);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        joined.join().unwrap().unwrap();
        assert_eq!((said.as_str(), heard.as_str()), ("ping", "hello pong"));
    }
}
