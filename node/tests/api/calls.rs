//! Each call of the client reaches the node as the command that was meant, and its answer comes back whole.
use super::support::*;
use node::api::types::*;
use node::handle::Command;
use protocol::units::MemoryMib;
use protocol::{ErrorCode, Fault};
use std::time::Duration;

#[tokio::test]
async fn a_query_arrives_as_it_was_asked() {
    let mut served = Served::start(None);
    let client = served.client();
    let query = ProviderQuery {
        cpus: Some(2),
        memory_mib: Some(MemoryMib(4096)),
        country: Some("DE".parse().unwrap()),
        max_price: Some("0.02".parse().unwrap()),
        image: Some("debian:12".parse().unwrap()),
        isolation: Some("any".parse().unwrap()),
        sort: Some(ProviderSort::Latency),
        limit: Some(7),
        ..ProviderQuery::default()
    };
    let asking = tokio::spawn(async move { client.providers(&query).await });
    let Command::Providers(asked, answer) = served.command().await else { panic!("another command") };
    assert_eq!((asked.cpus, asked.memory_mib, asked.limit), (Some(2), Some(MemoryMib(4096)), Some(7)));
    assert_eq!(asked.country.unwrap().as_str(), "DE");
    assert_eq!(asked.max_price.unwrap().to_string(), "0.02");
    assert_eq!(asked.image.unwrap().as_str(), "debian:12");
    assert_eq!((asked.sort, asked.disk_gib), (Some(ProviderSort::Latency), None));
    answer.send(Ok(Vec::new())).unwrap();
    assert!(within("the list", asking).await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn vms_are_shown_waited_for_acted_on_and_destroyed() {
    let mut served = Served::start(None);
    let client = served.client();
    let script = async {
        for _ in 0..5 {
            match served.command().await {
                Command::Vms(answer) => drop(answer.send(Ok(vec![vm("web", VmStatus::Running)]))),
                Command::Vm(name, answer) => {
                    assert_eq!(name, "web");
                    drop(answer.send(Ok(vm("web", VmStatus::Provisioning))));
                }
                Command::Wait { vm: name, status, answer } => {
                    assert_eq!((name.as_str(), status), ("web", VmStatus::Running));
                    drop(answer.send(Ok(vm("web", status))));
                }
                Command::Act(name, body, answer) if body.action == VmActionName::Stop => {
                    assert!(name == "web" && body.force);
                    drop(answer.send(Ok(vm("web", VmStatus::Stopped))));
                }
                Command::Act(_, body, answer) => {
                    assert_eq!(body.action, VmActionName::Destroy);
                    drop(answer.send(Ok(vm("web", VmStatus::Destroyed))));
                }
                _ => panic!("another command"),
            }
        }
    };
    let calls = async {
        assert_eq!(client.vms().await.unwrap()[0].name.as_str(), "web");
        assert_eq!(client.vm("web").await.unwrap().status, VmStatus::Provisioning);
        let patience = Duration::from_secs(5);
        assert_eq!(client.wait("web", VmStatus::Running, patience).await.unwrap().status, VmStatus::Running);
        let stop = VmActionBody { force: true, ..VmActionName::Stop.into() };
        assert_eq!(client.act("web", &stop).await.unwrap().status, VmStatus::Stopped);
        assert_eq!(client.destroy("web").await.unwrap().status, VmStatus::Destroyed);
    };
    within("all answers", async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn a_wait_that_takes_too_long_says_so_and_a_refusal_keeps_its_code_and_hint() {
    let mut served = Served::start(None);
    let client = served.client();
    let script = async {
        // Held, never answered: the node's own time limit has to end it.
        let Command::Wait { answer: _held, .. } = served.command().await else { panic!("another command") };
        let Command::Vm(_, answer) = served.command().await else { panic!("another command") };
        let fault = Fault::new(ErrorCode::NotYours, "that VM is another's").hint("rent your own").details("line 1");
        drop(answer.send(Err(fault)));
    };
    let calls = async {
        let late = client.wait("web", VmStatus::Running, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::Timeout);
        assert!(late.message.contains("'web' did not become running"), "{late}");
        let refused = client.vm("web").await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (ErrorCode::NotYours, "that VM is another's"));
        assert_eq!((refused.hint.as_deref(), refused.details.as_deref()), (Some("rent your own"), Some("line 1")));
    };
    within("all answers", async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn the_rest_of_the_calls_reach_the_node_too() {
    let mut served = Served::start(None);
    let client = served.client();
    let peer = protocol::Keypair::from_secret(&[3; 32]).peer_id();
    let script = async {
        for _ in 0..8 {
            match served.command().await {
                Command::Peers(answer) => drop(answer.send(Ok(Vec::new()))),
                Command::Leases(answer) => drop(answer.send(Ok(Vec::new()))),
                Command::Provider(asked, answer) => {
                    assert_eq!(asked, peer);
                    drop(answer.send(Err(Fault::new(ErrorCode::NoSuchResource, "nobody"))));
                }
                Command::Lease(lease, answer) => {
                    assert_eq!(lease, "a b/../c%");
                    drop(answer.send(Err(Fault::new(ErrorCode::NoSuchResource, "no lease"))));
                }
                Command::Dial(addrs, answer) => {
                    assert_eq!(addrs, ["/ip4/192.0.2.1/tcp/1"]);
                    drop(answer.send(Ok(())));
                }
                Command::Events { after, limit, answer } => {
                    assert_eq!((after, limit), (9, 1000), "a page is bounded");
                    drop(answer.send(Ok(Vec::new())));
                }
                Command::RescanImages(answer) | Command::Stop(answer) => drop(answer.send(Ok(()))),
                _ => panic!("another command"),
            }
        }
    };
    let calls = async {
        assert!(client.peers().await.unwrap().is_empty());
        assert!(client.leases().await.unwrap().is_empty());
        assert_eq!(client.provider(peer).await.unwrap_err().code, ErrorCode::NoSuchResource);
        assert_eq!(client.lease("a b/../c%").await.unwrap_err().code, ErrorCode::NoSuchResource);
        client.dial(&["/ip4/192.0.2.1/tcp/1".to_owned()]).await.unwrap();
        assert!(client.events(9, 1_000_000).await.unwrap().is_empty());
        client.rescan_images().await.unwrap();
        client.stop().await.unwrap();
    };
    within("all answers", async { tokio::join!(script, calls) }).await;
}
