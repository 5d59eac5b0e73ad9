//! A create is a stream; a client that goes away takes it back.
use super::support::*;
use node::api::types::*;
use node::handle::Command;
use protocol::{ErrorCode, Fault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

async fn asked(served: &mut Served) -> (CreateVm, mpsc::Sender<CreateEvent>) {
    match served.command().await {
        Command::Create(request, events) => (*request, events),
        _ => panic!("another command"),
    }
}

fn stage(stage: CreateStage) -> CreateEvent {
    CreateEvent::Stage { stage, message: "…".into(), elapsed_ms: 1, estimate: None }
}

#[tokio::test]
async fn events_come_one_by_one_as_they_happen() {
    let mut served = Served::start(None);
    let client = served.client();
    let calling = tokio::spawn(async move { client.create(&order("web")).await.unwrap() });
    let (request, events) = asked(&mut served).await;
    assert_eq!((request.name.as_str(), request.duration_s, request.wait), ("web", 3600, true));
    let mut stream = within("the stream's head", calling).await.unwrap();

    events.send(stage(CreateStage::Discover)).await.unwrap();
    let first = within("the first event, before there is a second", stream.next()).await.unwrap();
    assert!(matches!(first, Some(CreateEvent::Stage { stage: CreateStage::Discover, .. })), "{first:?}");

    // Two at once arrive as two.
    events.send(CreateEvent::Notice { message: "a guest without egress\nand a second line".into() }).await.unwrap();
    events.send(CreateEvent::Done { vm: Box::new(vm("web", VmStatus::Running)) }).await.unwrap();
    drop(events);
    let second = within("the notice", stream.next()).await.unwrap();
    assert!(matches!(&second, Some(CreateEvent::Notice { message }) if message.contains('\n')), "{second:?}");
    let third = within("the end", stream.next()).await.unwrap();
    assert!(matches!(&third, Some(CreateEvent::Done { vm }) if vm.status == VmStatus::Running), "{third:?}");
    assert!(within("the stream's end", stream.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_hint() {
    let mut served = Served::start(None);
    let client = served.client();
    let calling = tokio::spawn(async move { client.create(&order("web")).await.unwrap() });
    let (_, events) = asked(&mut served).await;
    let error = Fault::new(ErrorCode::Unavailable, "nobody offers that now").hint("ask for less");
    events.send(CreateEvent::Failed { error: error.clone() }).await.unwrap();
    let mut stream = within("the stream's head", calling).await.unwrap();
    let failed = within("the end", stream.next()).await.unwrap();
    assert!(matches!(&failed, Some(CreateEvent::Failed { error: said }) if *said == error), "{failed:?}");
}

/// At every point: before the first event, between two, and without having read anything.
#[tokio::test]
async fn a_client_that_goes_away_drops_the_receiver() {
    let mut served = Served::start(None);
    for events_before in [0, 1, 3] {
        let client = served.client();
        let calling = tokio::spawn(async move { client.create(&order("web")).await.unwrap() });
        let (_, events) = asked(&mut served).await;
        let mut stream = within("the stream's head", calling).await.unwrap();
        for _ in 0..events_before {
            events.send(stage(CreateStage::Quote)).await.unwrap();
            within("an event", stream.next()).await.unwrap();
        }
        assert!(!events.is_closed());
        drop(stream);
        within("the node notices", events.closed()).await;
    }
}

/// As a process that is killed does it: the connection breaks without a word.
#[tokio::test]
async fn a_client_that_dies_before_the_answers_head_drops_the_receiver() {
    let mut served = Served::start(None);
    let body = serde_json::to_string(&order("web")).unwrap();
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream.write_all(http("POST", "/api/v1/vms", &body).as_bytes()).await.unwrap();
    let (_, events) = asked(&mut served).await;
    drop(stream);
    within("the node notices", events.closed()).await;
}

#[tokio::test]
async fn the_stream_is_lines_of_json() {
    let mut served = Served::start(None);
    let body = serde_json::to_string(&order("web")).unwrap();
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream.write_all(http("POST", "/api/v1/vms", &body).as_bytes()).await.unwrap();
    let (_, events) = asked(&mut served).await;
    events.send(stage(CreateStage::Discover)).await.unwrap();
    drop(events);
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: application/x-ndjson"), "{answer}");
    assert!(answer.contains("{\"event\":\"stage\",\"stage\":\"discover\""), "{answer}");
}
