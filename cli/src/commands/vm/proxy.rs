//! `golemnode vm proxy NAME [PORT]`: stdin and stdout joined to a port of the guest. Every ssh, scp and rsync goes
//! through it, so it starts without a runtime, asks for one thing, and moves bytes.
//!
//! ```text
//! stdin ──thread──▶ socket ──▶ node ──▶ mesh ──▶ provider ──▶ guest
//! stdout ◀──main─── socket ◀── …
//! ```
//! Each direction ends by itself: the end of stdin is passed on and answers still come; the end of the answers closes
//! stdout, and stdin is read until the tunnel is gone as a whole.
use crate::args::Global;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::start;
use clap::Args;
use node::api::client::Tunnel;
use node::config::Home;
use protocol::{ErrorCode, Fault};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

/// Twice a pipe's own buffer: one system call takes all that can be there.
const BUFFER: usize = 128 * 1024;

#[derive(Args)]
pub struct ProxyArgs {
    /// Its name or id
    name: String,
    /// A TCP port of the guest
    #[arg(default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

pub fn run(context: &Context, args: &ProxyArgs) -> Outcome {
    let home = context.home().map_err(Failure::Ours)?;
    let tunnel = open_tunnel(&context.global, &home, &args.name, args.port).map_err(Failure::Ours)?;
    join(tunnel).map_err(|error| {
        Failure::Ours(Fault::new(ErrorCode::Unreachable, format!("the tunnel to '{}' broke: {error}", args.name)))
    })?;
    Ok(0)
}

/// A node runs most often, so it is asked at once; only when there is none is it started.
pub(super) fn open_tunnel(global: &Global, home: &Home, vm: &str, port: u16) -> Result<Tunnel, Fault> {
    match Tunnel::open(home, vm, port) {
        Err(fault) if fault.code == ErrorCode::Unavailable => {
            start::ensure(home, global)?;
            Tunnel::open(home, vm, port)
        }
        opened => opened,
    }
}

fn join(tunnel: Tunnel) -> std::io::Result<()> {
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> std::io::Result<File> {
        let file = File::from(fd.try_clone_to_owned()?);
        wait_for_bytes(&file)?;
        Ok(file)
    };
    let (stdin, mut stdout) = (own(std::io::stdin().as_fd())?, own(std::io::stdout().as_fd())?);
    let outward = tunnel.stream.try_clone()?;
    thread::Builder::new().name("outward".into()).spawn(move || {
        // A guest that reads no more is seen by the other direction.
        let _ = pump(&stdin, &outward);
        let _ = outward.shutdown(Shutdown::Write);
    })?;
    let inward = stdout.write_all(&tunnel.early).and_then(|()| pump(&tunnel.stream, &stdout));
    match inward {
        Ok(()) => {}
        // Nobody reads our stdout any more: the session is over.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(error),
    }
    drop(stdout);
    close_stdout()?;
    until_gone(&tunnel.stream)
}

/// Moves bytes until the end, each as soon as it is there. `io::copy` would splice between a pipe and a socket, and a
/// splice from a socket holds a server's greeting back until more comes.
pub(super) fn pump(mut from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A standard stream that some parent left non-blocking would end a copy at the first pause.
fn wait_for_bytes(file: &File) -> std::io::Result<()> {
    let flags = fcntl_getfl(file)?;
    if flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(file, flags - OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Whoever reads our stdout sees its end, though this process goes on.
fn close_stdout() -> std::io::Result<()> {
    let nothing = open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdout(nothing)?)
}

/// Until both directions have ended or the node has gone: the kernel reports a hang-up for either, unasked.
fn until_gone(stream: &UnixStream) -> std::io::Result<()> {
    loop {
        let mut watched = [PollFd::new(stream, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) if watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_through_pipes_and_sockets_and_the_end_is_passed_on() {
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let (pipe_out, pipe_in) = std::io::pipe().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let (mut there, back) = UnixStream::pair().unwrap();
        let copy = sent.clone();
        let writer = thread::spawn(move || (&pipe_in).write_all(&copy).unwrap());
        let from_pipe = thread::spawn(move || {
            pump(&pipe_out, &near).unwrap();
            near.shutdown(Shutdown::Write).unwrap();
        });
        let between_sockets = thread::spawn(move || pump(&far, &back).unwrap());
        let mut received = Vec::new();
        there.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        for thread in [writer, from_pipe, between_sockets] {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_tunnel_is_gone_when_both_directions_have_ended() {
        let (near, far) = UnixStream::pair().unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        until_gone(&near).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        until_gone(&near).unwrap();
    }
}
