//! Whether the kernel does what the rules say: a real process of QEMU's user, once in its own group and once in a
//! guest's, knocks at servers of ours. It is qemu-img, which is needed anyway and can open a connection.
use crate::libvirt::qemu_user::QemuUser;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// It is let in or refused within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// At the loopback of both families, and at the address that faces the world.
pub fn is_kept_out(user: QemuUser, group: u32) -> Result<(), String> {
    let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    if !gets_in(&open, user, user.gid)? {
        return Err("a process of QEMU's user cannot be seen to connect, so nothing is proven".to_owned());
    }
    let own = own_address().into_iter();
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].into_iter().chain(own) {
        // A host without IPv6 has nothing to reach there.
        let Ok(listener) = TcpListener::bind((address, 0)) else { continue };
        if gets_in(&listener, user, group)? {
            return Err(format!("the firewall takes the rules, and lets QEMU reach {address} all the same"));
        }
    }
    Ok(())
}

/// The host's, as others see it. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 88, 99, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn gets_in(listener: &TcpListener, user: QemuUser, group: u32) -> Result<bool, String> {
    let broken = |error: std::io::Error| format!("the firewall cannot be tried: {error}");
    listener.set_nonblocking(true).map_err(broken)?;
    let address: SocketAddr = listener.local_addr().map_err(broken)?;
    let mut command = Command::new("qemu-img");
    command.args(["info", &format!("nbd://{address}")]).uid(user.uid).gid(group).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut knocks = command.spawn().map_err(broken)?;
    let (deadline, mut came_in) = (Instant::now() + PATIENCE, false);
    loop {
        // Whoever is let in is shown out at once.
        came_in |= listener.accept().is_ok();
        if knocks.try_wait().map_err(broken)?.is_some() {
            return Ok(came_in || listener.accept().is_ok());
        }
        if Instant::now() > deadline {
            let _ = knocks.kill();
            let _ = knocks.wait();
            return Ok(came_in);
        }
        sleep(POLL);
    }
}
