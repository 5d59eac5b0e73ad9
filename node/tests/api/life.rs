//! The socket, and when a node may leave.
use super::support::*;
use node::api::client::{self, Client};
use node::api::server;
use node::api::types::*;
use node::config::{Home, NodeLock};
use node::handle::Command;
use protocol::ErrorCode;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[tokio::test]
async fn the_socket_is_its_owners_and_a_stale_one_is_replaced() {
    let served = Served::start(None);
    let mode = std::fs::metadata(served.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A node that was killed leaves its socket behind; whoever holds the lock takes its place.
    let listener = server::bind(served.lock(), &served.home).unwrap();
    let (sender, _commands) = tokio::sync::mpsc::channel(1);
    let node = node::handle::NodeHandle::new(sender);
    tokio::spawn(server::serve(listener, node, served.idle.clone(), Default::default()));
    let said = served.raw(&http("GET", "/healthz", "")).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn without_a_node_the_client_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::find(Some(dir.path().to_owned())).unwrap();
    let nobody = Client::new(&home).status().await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::Unavailable);
    assert!(nobody.message.contains("no node runs on") && nobody.hint.is_some(), "{nobody}");
    assert!(!client::is_alive(&home));
    // Nor when only the socket of a dead one is left.
    drop(server::bind(&NodeLock::take(&home).unwrap(), &home).unwrap());
    assert!(home.socket().exists());
    assert_eq!(Client::new(&home).vms().await.unwrap_err().code, ErrorCode::Unavailable);
    assert!(!client::is_alive(&home));
}

#[tokio::test]
async fn a_served_home_is_alive() {
    let served = Served::start(None);
    let home = served.home.clone();
    let alive = tokio::task::spawn_blocking(move || client::is_alive(&home));
    assert!(within("the answer", alive).await.unwrap());
}

/// The script that answers for the node while it is asked whether anything is unfinished.
async fn finish(served: &mut Served, unfinished: &[bool]) {
    for answered in unfinished {
        let Command::Unfinished(answer) = served.command().await else { panic!("another command") };
        drop(answer.send(Ok(*answered)));
    }
}

#[tokio::test]
async fn an_idle_node_leaves_once_nothing_is_unfinished() {
    let mut served = Served::start(Some(Duration::from_millis(100)));
    let (idle, node) = (served.idle.clone(), served.node.clone());
    let leaving = tokio::spawn(async move { idle.expired(&node).await });
    finish(&mut served, &[true, true]).await;
    assert!(!leaving.is_finished());
    finish(&mut served, &[false]).await;
    within("it leaves", leaving).await.unwrap();
}

#[tokio::test]
async fn a_create_and_a_tunnel_keep_it_and_a_request_starts_the_time_anew() {
    const AFTER: Duration = Duration::from_millis(300);
    let mut served = Served::start(Some(AFTER));
    let client = served.client();
    let creating = tokio::spawn(async move { client.create(&order("web")).await.unwrap() });
    let Command::Create(_, events) = served.command().await else { panic!("another command") };
    let mut stream = within("the stream's head", creating).await.unwrap();
    let (idle, node) = (served.idle.clone(), served.node.clone());
    let leaving = tokio::spawn(async move { idle.expired(&node).await });
    // Not even asked whether anything is unfinished: it is busy.
    let silence = tokio::time::timeout(AFTER * 3, served.commands.recv()).await;
    assert!(silence.is_err() && !leaving.is_finished());

    events.send(CreateEvent::Done { vm: Box::new(vm("web", VmStatus::Running)) }).await.unwrap();
    drop(events);
    while within("the end", stream.next()).await.unwrap().is_some() {}
    let ended = Instant::now();
    finish(&mut served, &[false]).await;
    within("it leaves", leaving).await.unwrap();
    assert!(ended.elapsed() >= AFTER / 2, "it left {:?} after the last request", ended.elapsed());
}

#[tokio::test]
async fn a_node_without_an_idle_exit_stays() {
    let served = Served::start(None);
    let stays = tokio::time::timeout(Duration::from_millis(300), served.idle.expired(&served.node)).await;
    assert!(stays.is_err());
}
