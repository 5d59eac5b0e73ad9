//! The client of the local API: HTTP/1 on the home's socket, a connection for each call.
use super::billing::{CreditBody, CreditView, ReceiptView, RenewBody};
use super::server::TUNNEL_PROTOCOL;
use super::types::*;
use crate::config::Home;
use crate::store::backup::BackupView;
use crate::store::check::StoreReport;
use crate::store::restore::RestoreView;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use protocol::lease::LeaseDocument;
use protocol::quota::Tier;
use protocol::receipt::ReceiptDocument;
use protocol::revocation::RevocationDocument;
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Serialize, de::DeserializeOwned};
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// What the node answers from memory, or after asking a few peers.
const SHORT: Duration = Duration::from_secs(30);
/// An action's own deadline in the node is 180 s; its answer says more than ours.
const ACTION: Duration = Duration::from_secs(200);
/// How much later than the node's own deadline we give up.
const MARGIN: Duration = Duration::from_secs(10);
/// A list of a few thousand rows; beyond it the answer is not ours.
const MAX_ANSWER: usize = 16 << 20;
/// One event of a create: a VM's view with an error and its details.
const MAX_LINE: usize = 256 * 1024;
/// A node that accepts a connection answers `/healthz` from memory, even on a busy machine.
const ALIVE: Duration = Duration::from_secs(3);
/// The head of an answer to a tunnel's upgrade; ours has about 100 bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The provider has 10 s to open; on a relayed path that is tried twice.
const TUNNEL: Duration = Duration::from_secs(30);
/// The same, and what the guest has said.
const LOG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    home: PathBuf,
}

impl Client {
    pub fn new(home: &Home) -> Self {
        Client { socket: home.socket(), home: home.root().to_owned() }
    }

    pub async fn status(&self) -> Result<NodeStatus, Fault> {
        self.get("/api/v1/node").await
    }
    pub async fn peers(&self) -> Result<Vec<PeerView>, Fault> {
        self.get("/api/v1/node/peers").await
    }
    pub async fn stop(&self) -> Result<(), Fault> {
        self.post("/api/v1/node/stop", &serde_json::json!({}), SHORT).await.map(|_: serde_json::Value| ())
    }
    pub async fn dial(&self, addrs: &[String]) -> Result<(), Fault> {
        let body = serde_json::json!({ "addrs": addrs });
        self.post("/api/v1/node/dial", &body, SHORT).await.map(|_: serde_json::Value| ())
    }
    pub async fn revoke(&self, document: &RevocationDocument) -> Result<RevokedView, Fault> {
        self.post("/api/v1/identity/revoke", document, SHORT).await
    }
    pub async fn providers(&self, query: &ProviderQuery) -> Result<Vec<ProviderView>, Fault> {
        self.get(&format!("/api/v1/providers{}", query_string(query)?)).await
    }
    pub async fn provider(&self, peer: PeerId) -> Result<ProviderView, Fault> {
        self.get(&format!("/api/v1/providers/{peer}")).await
    }
    pub async fn vms(&self) -> Result<Vec<VmView>, Fault> {
        self.get("/api/v1/vms").await
    }
    /// By name or by id.
    pub async fn vm(&self, vm: &str) -> Result<VmView, Fault> {
        self.get(&format!("/api/v1/vms/{}", escape(vm))).await
    }
    /// Answers when the VM has that status, or with NET_001.
    pub async fn wait(&self, vm: &str, status: VmStatus, timeout: Duration) -> Result<VmView, Fault> {
        #[derive(Serialize)]
        struct Wait {
            wait_for: VmStatus,
            timeout_s: u64,
        }
        let query = query_string(&Wait { wait_for: status, timeout_s: timeout.as_secs() })?;
        let request = self.request(Method::GET, &format!("/api/v1/vms/{}{query}", escape(vm)), None)?;
        self.answer(request, timeout + MARGIN).await
    }
    pub async fn act(&self, vm: &str, body: &VmActionBody) -> Result<VmView, Fault> {
        self.post(&format!("/api/v1/vms/{}/action", escape(vm)), body, ACTION).await
    }
    /// Answers when the VM is gone.
    pub async fn destroy(&self, vm: &str) -> Result<VmView, Fault> {
        let request = self.request(Method::DELETE, &format!("/api/v1/vms/{}", escape(vm)), None)?;
        self.answer(request, ACTION).await
    }
    /// Dropping the stream before the lease is confirmed takes the request back.
    pub async fn create(&self, create: &CreateVm) -> Result<CreateStream, Fault> {
        let mut request = self.request(Method::POST, "/api/v1/vms", Some(to_json(create)?))?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/x-ndjson"));
        let response = within(SHORT, self.send(request)).await?;
        let patience = Duration::from_secs(create.timeout_s).saturating_add(MARGIN);
        Ok(CreateStream { body: checked(response).await?.into_body(), buffer: Vec::new(), patience })
    }
    pub async fn leases(&self) -> Result<Vec<LeaseView>, Fault> {
        self.get("/api/v1/leases").await
    }
    /// By lease id, VM name or VM id.
    pub async fn lease(&self, lease: &str) -> Result<LeaseDocument, Fault> {
        self.get(&format!("/api/v1/leases/{}", escape(lease))).await
    }
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<EventView>, Fault> {
        self.get(&format!("/api/v1/events?after={after}&limit={limit}")).await
    }
    pub async fn bans(&self) -> Result<Vec<BanView>, Fault> {
        self.get("/api/v1/bans").await
    }
    pub async fn lift_ban(&self, peer: PeerId) -> Result<BanView, Fault> {
        self.answer(self.request(Method::DELETE, &format!("/api/v1/bans/{peer}"), None)?, SHORT).await
    }
    pub async fn log(&self, vm: &str, bytes: u32) -> Result<LogView, Fault> {
        self.answer(self.request(Method::GET, &format!("/api/v1/vms/{}/log?bytes={bytes}", escape(vm)), None)?, LOG)
            .await
    }
    pub async fn rename(&self, vm: &str, body: &RenameBody) -> Result<VmView, Fault> {
        self.post(&format!("/api/v1/vms/{}/rename", escape(vm)), body, SHORT).await
    }
    pub async fn renew(&self, vm: &str, body: &RenewBody) -> Result<VmView, Fault> {
        self.post(&format!("/api/v1/vms/{}/renew", escape(vm)), body, SHORT).await
    }
    pub async fn receipts(&self) -> Result<Vec<ReceiptView>, Fault> {
        self.get("/api/v1/receipts").await
    }
    /// By lease id, VM name or VM id.
    pub async fn receipt(&self, lease: &str) -> Result<ReceiptDocument, Fault> {
        self.get(&format!("/api/v1/receipts/{}", escape(lease))).await
    }
    pub async fn credits(&self) -> Result<Vec<CreditView>, Fault> {
        self.get("/api/v1/credits").await
    }
    pub async fn credit(&self, peer: PeerId) -> Result<Vec<CreditView>, Fault> {
        self.get(&format!("/api/v1/credits/{peer}")).await
    }
    pub async fn grant_credit(&self, peer: PeerId, body: &CreditBody) -> Result<Vec<CreditView>, Fault> {
        self.post(&format!("/api/v1/credits/{peer}"), body, SHORT).await
    }
    pub async fn quotas(&self) -> Result<Vec<QuotaView>, Fault> {
        self.get("/api/v1/quotas").await
    }
    pub async fn quota(&self, peer: PeerId) -> Result<QuotaView, Fault> {
        self.get(&format!("/api/v1/quotas/{peer}")).await
    }
    pub async fn set_quota(&self, peer: PeerId, tier: Option<Tier>) -> Result<QuotaView, Fault> {
        self.post(&format!("/api/v1/quotas/{peer}"), &QuotaBody { tier }, SHORT).await
    }
    pub async fn jobs(&self) -> Result<Vec<JobView>, Fault> {
        self.get("/api/v1/jobs").await
    }
    pub async fn job(&self, id: u64) -> Result<JobView, Fault> {
        self.get(&format!("/api/v1/jobs/{id}")).await
    }
    pub async fn cancel_job(&self, id: u64) -> Result<JobView, Fault> {
        self.answer(self.request(Method::DELETE, &format!("/api/v1/jobs/{id}"), None)?, SHORT).await
    }
    pub async fn own_provider(&self) -> Result<ProviderReport, Fault> {
        self.get("/api/v1/provider").await
    }
    pub async fn drain(&self, action: ProviderAction) -> Result<ProviderReport, Fault> {
        self.post("/api/v1/provider/action", &ProviderActionBody { action }, SHORT).await
    }
    pub async fn check_store(&self) -> Result<StoreReport, Fault> {
        self.answer(self.request(Method::GET, "/api/v1/store/check", None)?, ACTION).await
    }
    /// By its whole path: the node's own folder is another one.
    pub async fn back_up_store(&self, file: &Path, overwrite: bool) -> Result<BackupView, Fault> {
        self.post("/api/v1/store/backup", &StoreBackup { file: file.to_owned(), overwrite }, ACTION).await
    }
    /// The node stops afterwards.
    pub async fn restore_store(&self, file: &Path) -> Result<RestoreView, Fault> {
        self.post("/api/v1/store/restore", &StoreRestore { file: file.to_owned() }, ACTION).await
    }
    pub async fn rescan_images(&self) -> Result<(), Fault> {
        self.post("/api/v1/images/rescan", &serde_json::json!({}), SHORT).await.map(|_: serde_json::Value| ())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        self.answer(self.request(Method::GET, path, None)?, SHORT).await
    }
    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, limit: Duration) -> Result<T, Fault> {
        self.answer(self.request(Method::POST, path, Some(to_json(body)?))?, limit).await
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        request.map_err(|error| Fault::invalid(format!("'{path}' cannot be asked for: {error}")))
    }

    async fn answer<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<T, Fault> {
        within(limit, async {
            let response = checked(self.send(request).await?).await?;
            let bytes = collect(response.into_body()).await?;
            serde_json::from_slice(&bytes).map_err(|error| {
                Fault::internal(format!("the node's answer is not understood: {error}"))
                    .hint("is the node of another version? 'golemnode node stop' ends it")
            })
        })
        .await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Fault> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.home, &error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // It ends with the exchange; what goes wrong on it comes out of the request as well.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}

/// The events of a create, one after another.
pub struct CreateStream {
    body: Incoming,
    buffer: Vec<u8>,
    patience: Duration,
}

impl CreateStream {
    /// None at the end of the stream, which follows `Done` or `Failed`.
    pub async fn next(&mut self) -> Result<Option<CreateEvent>, Fault> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event
                    .map(Some)
                    .map_err(|error| Fault::internal(format!("the node's progress is not understood: {error}")));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Fault::internal("the node's progress has a line without an end"));
            }
            match within(self.patience, async { Ok(self.body.frame().await) }).await? {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..])),
                Some(Err(error)) => return Err(broken(&error)),
            }
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = |_| {
        Fault::new(ErrorCode::Timeout, format!("the node did not answer within {} s", limit.as_secs()))
            .hint("its log is node.log in the home")
    };
    tokio::time::timeout(limit, work).await.map_err(late)?
}

fn to_json(body: &impl Serialize) -> Result<Bytes, Fault> {
    let bytes = serde_json::to_vec(body).map_err(|error| Fault::internal(format!("no JSON: {error}")))?;
    Ok(bytes.into())
}

async fn collect(body: Incoming) -> Result<Bytes, Fault> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(collected.map_err(|error| Fault::internal(format!("the node's answer broke off: {error}")))?.to_bytes())
}

/// The answer, or the fault that it carries.
async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, Fault> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = collect(response.into_body()).await?;
    Err(fault_of(status, &bytes))
}

fn fault_of(status: StatusCode, body: &[u8]) -> Fault {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.error.fault,
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
            Fault::internal(format!("the node answered {status}")).details(text)
        }
    }
}

fn broken(error: &hyper::Error) -> Fault {
    Fault::new(ErrorCode::Unavailable, format!("the node broke off: {error}"))
        .hint("was it just stopped? its log is node.log in the home")
}

fn unreachable(home: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match error.kind() {
        NotFound | ConnectionRefused => {
            Fault::new(ErrorCode::Unavailable, format!("no node runs on {}", home.display()))
                .hint("'golemnode node run' starts one; --home names another home")
        }
        PermissionDenied => Fault::new(ErrorCode::Denied, format!("the node on {} is another user's", home.display()))
            .hint("name your own home with --home"),
        _ => Fault::new(ErrorCode::Unavailable, format!("the node on {} is not reached: {error}", home.display())),
    }
}

/// The fields that are set, as `?a=b&c=d`.
fn query_string(query: &impl Serialize) -> Result<String, Fault> {
    let value = serde_json::to_value(query).map_err(|error| Fault::internal(format!("no query: {error}")))?;
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let word = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(word) => escape(word),
            other => escape(&other.to_string()),
        };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(&word);
    }
    Ok(text)
}

/// Percent-encoded: what a user types never becomes another path.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    // A dot is escaped too: "." and ".." are no names but ways through a path.
    escaped
}

/// Whether a node answers on this home. Blocking and without a runtime, for the start of each command.
pub fn is_alive(home: &Home) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = StdUnixStream::connect(home.socket())?;
        stream.set_read_timeout(Some(ALIVE))?;
        stream.set_write_timeout(Some(ALIVE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    asked().unwrap_or(false)
}

/// A byte stream to a guest's port. Blocking and without a runtime: `vm proxy` joins it to its standard streams, and
/// the kernel then moves the bytes.
pub struct Tunnel {
    pub stream: StdUnixStream,
    /// What the guest said before we had read the head's end.
    pub early: Vec<u8>,
}

impl Tunnel {
    pub fn open(home: &Home, vm: &str, port: u16) -> Result<Self, Fault> {
        let mut stream = StdUnixStream::connect(home.socket()).map_err(|error| unreachable(home.root(), &error))?;
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                Fault::new(ErrorCode::Timeout, format!("no tunnel to '{vm}' within {} s", TUNNEL.as_secs()))
            }
            _ => Fault::new(ErrorCode::Unavailable, format!("the node broke off: {error}")),
        };
        stream.set_read_timeout(Some(TUNNEL)).map_err(io)?;
        let request = format!(
            "POST /api/v1/tunnels?vm={}&port={port} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: {TUNNEL_PROTOCOL}\r\nContent-Length: 0\r\n\r\n",
            escape(vm)
        );
        stream.write_all(request.as_bytes()).map_err(io)?;
        let (head, rest) = read_head(&mut stream).map_err(io)?;
        let status = status_of(&head).ok_or_else(|| Fault::internal("the node's answer is not HTTP"))?;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(fault_of(status, &read_body(&mut stream, &head, rest).map_err(io)?));
        }
        stream.set_read_timeout(None).map_err(io)?;
        Ok(Tunnel { stream, early: rest })
    }
}

/// The head up to its empty line, and what came with it.
fn read_head(stream: &mut impl Read) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let read = stream.read(&mut part)?;
        if read == 0 || bytes.len() > MAX_HEAD {
            return Err(std::io::Error::other("its answer has no end"));
        }
        bytes.extend_from_slice(&part[..read]);
    }
}

fn status_of(head: &str) -> Option<StatusCode> {
    head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// A body by its length: the node's errors are small and never chunked.
fn read_body(stream: &mut impl Read, head: &str, mut body: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let field = |line: &str| -> Option<usize> {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    let length = head.lines().find_map(field).unwrap_or(0).min(MAX_ANSWER);
    let missing = length.saturating_sub(body.len());
    stream.take(missing as u64).read_to_end(&mut body)?;
    Ok(body)
}

/// The answer to a tunnel's upgrade, from a node that says this and no more.
#[cfg(feature = "fuzzing")]
pub(crate) fn upgraded(mut said: &[u8]) -> std::io::Result<Result<Vec<u8>, Fault>> {
    let (head, rest) = read_head(&mut said)?;
    let status = status_of(&head).ok_or_else(|| std::io::Error::other("not HTTP"))?;
    match status {
        StatusCode::SWITCHING_PROTOCOLS => Ok(Ok(rest)),
        _ => Ok(Err(fault_of(status, &read_body(&mut said, &head, rest)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_hold_what_is_set_and_nothing_a_user_types_leaves_its_place() {
        let query = ProviderQuery {
            cpus: Some(2),
            image: Some("debian:12".parse().unwrap()),
            max_price: Some("0.02".parse().unwrap()),
            sort: Some(ProviderSort::Price),
            ..ProviderQuery::default()
        };
        assert_eq!(query_string(&query).unwrap(), "?cpus=2&image=debian%3A12&max_price=0%2E02&sort=price");
        assert_eq!(query_string(&ProviderQuery::default()).unwrap(), "");
        assert_eq!(escape("../node?x=1"), "%2E%2E%2Fnode%3Fx%3D1");
    }
}
