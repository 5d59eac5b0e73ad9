//! Whatever goes wrong, the answer has the one shape of an error: code, message, request id, time.
use super::support::*;
use node::handle::Command;
use protocol::ErrorCode;

struct Said {
    status: u16,
    error: serde_json::Value,
}

async fn asked(served: &Served, request: &str) -> Said {
    let answer = served.raw(request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let shown: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"));
    Said { status, error: shown["error"].clone() }
}

#[tokio::test]
async fn wrong_requests_are_refused_in_the_one_shape() {
    let served = Served::start(None);
    // One byte more than is read.
    let long = http("POST", "/api/v1/vms", &"x".repeat((256 << 10) + 1));
    let path_of = |vm: &str| format!("/api/v1/vms/{vm}");
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("no such route", http("GET", "/api/v1/nothing", ""), 404, "RES_001"),
        ("outside the API", http("GET", "/", ""), 404, "RES_001"),
        ("another method", http("PUT", "/api/v1/vms", ""), 405, "REQ_001"),
        ("no JSON", http("POST", "/api/v1/vms", "{"), 400, "REQ_001"),
        ("not text", http("POST", "/api/v1/vms/web/action", "\u{0}"), 400, "REQ_001"),
        ("unknown field", http("POST", "/api/v1/vms/web/action", "{\"action\":\"stop\",\"fast\":1}"), 400, "REQ_001"),
        ("unknown action", http("POST", "/api/v1/vms/web/action", "{\"action\":\"explode\"}"), 400, "REQ_001"),
        ("bad VM name", http("POST", "/api/v1/vms", &create_named("../x")), 400, "REQ_001"),
        ("too large", long, 413, "REQ_001"),
        ("bad query", http("GET", "/api/v1/providers?cpus=many", ""), 400, "REQ_001"),
        ("unknown query", http("GET", "/api/v1/providers?colour=red", ""), 400, "REQ_001"),
        ("bad country", http("GET", "/api/v1/providers?country=de", ""), 400, "REQ_001"),
        ("bad state", http("GET", "/api/v1/vms/web?wait_for=happy", ""), 400, "REQ_001"),
        ("bad peer", http("GET", "/api/v1/providers/nobody", ""), 400, "REQ_001"),
        ("no UTF-8", http("GET", &path_of("%FF"), ""), 400, "REQ_001"),
        ("no upgrade", http("POST", "/api/v1/tunnels?vm=web&port=22", ""), 400, "REQ_001"),
        ("no port", http("POST", "/api/v1/tunnels?vm=web", ""), 400, "REQ_001"),
        ("bad port", http("POST", "/api/v1/tunnels?vm=web&port=70000", ""), 400, "REQ_001"),
    ];
    for (name, request, status, code) in cases {
        let said = asked(&served, &request).await;
        assert_eq!((said.status, said.error["code"].as_str()), (status, Some(code)), "{name}: {}", said.error);
        assert!(said.error["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {}", said.error);
        assert!(said.error["request_id"].as_str().is_some_and(|id| id.len() == 32), "{name}: {}", said.error);
        assert!(said.error["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{name}: {}", said.error);
    }
}

fn create_named(name: &str) -> String {
    let mut body = serde_json::to_value(order("web")).unwrap();
    body["name"] = name.into();
    body.to_string()
}

#[tokio::test]
async fn every_code_has_the_http_status_of_the_contract() {
    let mut served = Served::start(None);
    for code in ErrorCode::ALL {
        let socket = served.socket();
        let asking = tokio::spawn(async move { raw_at(socket, &http("GET", "/api/v1/vms/web", "")).await });
        let Command::Vm(_, answer) = served.command().await else { panic!("another command") };
        answer.send(Err(protocol::Fault::new(*code, "no"))).unwrap();
        let said = within("an answer", asking).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {} ", code.http_status())), "{code}: {said}");
        assert!(said.contains(&format!("\"code\":\"{code}\"")), "{code}: {said}");
    }
}

#[tokio::test]
async fn a_node_that_has_ended_is_said_so() {
    let mut served = Served::start(None);
    served.commands.close();
    let said = asked(&served, &http("GET", "/api/v1/node", "")).await;
    assert_eq!((said.status, said.error["code"].as_str()), (503, Some("RES_003")));
}

#[tokio::test]
async fn health_needs_no_node() {
    let served = Served::start(None);
    let said = served.raw(&http("GET", "/healthz", "")).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("ok\n"), "{said}");
}
