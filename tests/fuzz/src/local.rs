//! What stands in the home and what comes over the local API.
use crate::{Bytes, json_again};
use axum::body::Body;
use axum::http::{Method, Request, Uri};
use http_body_util::BodyExt;
use node::api::billing::{CreditView, ReceiptView};
use node::api::types::*;
use node::handle::Command;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;
use tower::ServiceExt;

/// `config.toml`.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match node::fuzzing::settings(text) {
        Ok(settings) => {
            let p = &settings.provider;
            assert!((1..=10_000).contains(&p.max_vms) && (1..=64).contains(&p.min_cpus));
            assert!([p.cpu_threshold, p.memory_threshold, p.disk_threshold].iter().all(|t| (1..=100).contains(t)));
            assert!((0.1..=64.0).contains(&p.overcommit_cpu));
            assert!((10..=240).contains(&p.advert_interval.as_secs()));
            assert!(p.max_lease.as_secs() >= 60 && p.max_lease.as_secs() <= 366 * 86_400);
        }
        Err(fault) => {
            let place = fault.message.strip_prefix("config.toml:").expect("it says where").split(':').next();
            let line: usize = place.and_then(|line| line.parse().ok()).expect("and on which line");
            assert!((1..=text.lines().count().max(1)).contains(&line), "line {line} of {}", text.lines().count());
        }
    }
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::HEAD];

/// A call of the API: method, path with its query, body. Whatever is wrong with it has the one shape of an error.
pub fn api_requests(data: &[u8]) {
    let mut input = Bytes::new(data);
    let method = METHODS[usize::from(input.u8()) % METHODS.len()].clone();
    let Ok(uri) = Uri::try_from(input.chunk()) else { return };
    let Ok(request) = Request::builder().method(&method).uri(uri).body(Body::from(input.rest().to_vec())) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (status, body) = runtime.block_on(async {
        let (commands, mut asked) = mpsc::channel::<Command>(1);
        let api = node::fuzzing::api(commands);
        let answered = async {
            let answer = api.oneshot(request).await.unwrap_or_else(|never| match never {});
            (answer.status(), answer.into_body().collect().await.expect("a body in memory").to_bytes())
        };
        // A node that is leaving: it takes what it is asked, and answers nothing.
        let leaving = async { while asked.recv().await.is_some() {} };
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            // It has nothing more to ask, and nobody to wait for.
            () = leaving => answered.await,
        }
    });
    if status.is_success() || method == Method::HEAD {
        return;
    }
    let error: ErrorBody = serde_json::from_slice(&body).unwrap_or_else(|why| panic!("{status}: {why}: {body:?}"));
    assert!(!error.error.fault.message.is_empty() && error.error.request_id.len() == 32);
}

/// What a command reads from its node, which may be of another version, or another program altogether.
pub fn api_answers(data: &[u8]) {
    json::<NodeStatus>(data);
    json::<Vec<PeerView>>(data);
    json::<ProviderQuery>(data);
    json::<Vec<ProviderView>>(data);
    json::<CreateVm>(data);
    json::<CreateEvent>(data);
    json::<Vec<VmView>>(data);
    json::<VmActionBody>(data);
    json::<Vec<LeaseView>>(data);
    json::<Vec<EventView>>(data);
    json::<ProviderReport>(data);
    json::<Vec<QuotaView>>(data);
    json::<Vec<ReceiptView>>(data);
    json::<Vec<CreditView>>(data);
    json::<ErrorBody>(data);
    match node::fuzzing::upgraded(data) {
        Ok(Ok(early)) => assert!(data.ends_with(&early)),
        Ok(Err(fault)) => assert!(!fault.message.is_empty() || !data.is_empty()),
        Err(_) => {}
    }
}

fn json<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        json_again(&value);
    }
}
