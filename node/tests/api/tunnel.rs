//! Tunnels: an upgrade to the guest's bytes, whole and both ways, with each end's close carried over.
use super::support::*;
use node::api::client::Tunnel;
use node::handle::{Answer, Command};
use node::mesh::BoxedStream;
use protocol::{ErrorCode, Fault};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

fn open(served: &Served, vm: &'static str, port: u16) -> JoinHandle<Result<Tunnel, Fault>> {
    let home = served.home.clone();
    tokio::task::spawn_blocking(move || Tunnel::open(&home, vm, port))
}

async fn asked(served: &mut Served) -> (String, u16, Answer<BoxedStream>) {
    match served.command().await {
        Command::Tunnel { vm, port, answer } => (vm, port, answer),
        _ => panic!("another command"),
    }
}

/// An open tunnel and the guest's end of it.
async fn opened(served: &mut Served) -> (Tunnel, DuplexStream) {
    let opening = open(served, "web", 22);
    let (vm, port, answer) = asked(served).await;
    assert_eq!((vm.as_str(), port), ("web", 22));
    let (ours, guest) = tokio::io::duplex(64 * 1024);
    assert!(answer.send(Ok(Box::new(ours))).is_ok());
    (within("the tunnel", opening).await.unwrap().unwrap(), guest)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn megabytes_pass_unchanged_both_ways_at_once() {
    const LENGTH: usize = 8 << 20;
    let mut served = Served::start(None);
    let (tunnel, guest) = opened(&mut served).await;
    let (mut down, mut up) = tokio::io::split(guest);
    let guest_sends = tokio::spawn(async move {
        up.write_all(&noise(LENGTH)).await.unwrap();
        up.shutdown().await.unwrap();
    });
    let guest_reads = tokio::spawn(async move {
        let mut read = Vec::new();
        down.read_to_end(&mut read).await.unwrap();
        read
    });
    let client = tokio::task::spawn_blocking(move || {
        let mut writer = tunnel.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            writer.write_all(&noise(LENGTH)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut read = tunnel.early;
        let mut stream = tunnel.stream;
        stream.read_to_end(&mut read).unwrap();
        sending.join().unwrap();
        read
    });
    within("the guest's bytes leave", guest_sends).await.unwrap();
    assert!(within("the guest reads", guest_reads).await.unwrap() == noise(LENGTH));
    assert!(within("the client reads", client).await.unwrap() == noise(LENGTH));
}

/// `ssh host command < file`: the client has said all, the guest has not.
#[tokio::test]
async fn one_direction_may_end_before_the_other() {
    let mut served = Served::start(None);
    let (tunnel, mut guest) = opened(&mut served).await;
    (&tunnel.stream).write_all(b"question").unwrap();
    tunnel.stream.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    within("the guest reads to the end", guest.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    guest.write_all(b"answer").await.unwrap();
    drop(guest);
    let reading = tokio::task::spawn_blocking(move || {
        let mut answer = tunnel.early;
        (&tunnel.stream).read_to_end(&mut answer).unwrap();
        answer
    });
    assert_eq!(within("the client reads to the end", reading).await.unwrap(), b"answer");
}

#[tokio::test]
async fn a_client_that_goes_away_closes_the_guests_end() {
    let mut served = Served::start(None);
    let (tunnel, mut guest) = opened(&mut served).await;
    drop(tunnel);
    let mut rest = Vec::new();
    // An end, with or without an error: sshd ends its session at either.
    let _ = within("the guest's end closes", guest.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_refused_tunnel_is_an_ordinary_error() {
    let mut served = Served::start(None);
    let opening = open(&served, "other", 22);
    let (_, _, answer) = asked(&mut served).await;
    let fault = Fault::new(ErrorCode::NotYours, "that lease is another's").hint("rent your own");
    assert!(answer.send(Err(fault.clone())).is_ok());
    let refused = within("the refusal", opening).await.unwrap().err().unwrap();
    assert_eq!((refused.code, refused.message, refused.hint), (fault.code, fault.message, fault.hint));
}

#[tokio::test]
async fn an_open_tunnel_keeps_an_idle_node() {
    const AFTER: Duration = Duration::from_millis(200);
    let mut served = Served::start(Some(AFTER));
    let (tunnel, guest) = opened(&mut served).await;
    let (idle, node) = (served.idle.clone(), served.node.clone());
    let leaving = tokio::spawn(async move { idle.expired(&node).await });
    let silence = tokio::time::timeout(AFTER * 4, served.commands.recv()).await;
    assert!(silence.is_err() && !leaving.is_finished(), "it asks nothing and stays");
    drop((tunnel, guest));
    let Command::Unfinished(answer) = served.command().await else { panic!("another command") };
    answer.send(Ok(false)).unwrap();
    within("it leaves", leaving).await.unwrap();
}
