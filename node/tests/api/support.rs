//! A served socket with a scripted node behind it: the test plays the actor and answers each command itself.
use node::api::client::Client;
use node::api::idle::IdleWatch;
use node::api::server;
use node::api::types::*;
use node::config::{Home, NodeLock};
use node::handle::{Command, NodeHandle};
use protocol::names::Egress;
use protocol::units::Resources;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Everything here happens on one machine within milliseconds; beyond this it hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Served {
    pub home: Home,
    pub commands: mpsc::Receiver<Command>,
    pub node: NodeHandle,
    pub idle: IdleWatch,
    stop: CancellationToken,
    lock: NodeLock,
    _dir: tempfile::TempDir,
}

impl Served {
    pub fn start(idle_after: Option<Duration>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(dir.path().to_owned())).unwrap();
        let lock = NodeLock::take(&home).unwrap();
        let listener = server::bind(&lock, &home).unwrap();
        let (sender, commands) = mpsc::channel(node::handle::COMMANDS);
        let (node, idle, stop) = (NodeHandle::new(sender), IdleWatch::new(idle_after), CancellationToken::new());
        tokio::spawn(server::serve(listener, node.clone(), idle.clone(), stop.clone()));
        Served { home, commands, node, idle, stop, lock, _dir: dir }
    }
    pub fn client(&self) -> Client {
        Client::new(&self.home)
    }
    pub fn socket(&self) -> PathBuf {
        self.home.socket()
    }
    pub fn lock(&self) -> &NodeLock {
        &self.lock
    }
    pub async fn command(&mut self) -> Command {
        within("a command arrives", self.commands.recv()).await.expect("the server holds a handle")
    }
    /// Sends these bytes as they are and reads until the other end closes.
    pub async fn raw(&self, request: &str) -> String {
        raw_at(self.socket(), request).await
    }
}

pub async fn raw_at(socket: PathBuf, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A request of HTTP/1.1 that closes afterwards.
pub fn http(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

pub fn vm(name: &str, status: VmStatus) -> VmView {
    VmView {
        project: None,
        id: "00112233445566778899aabbccddeeff".into(),
        name: name.parse().unwrap(),
        status,
        status_detail: None,
        error: None,
        provider: None,
        path: None,
        image: "tiny".parse().unwrap(),
        cpus: 1,
        memory_mib: Resources::SMALL.memory_mib,
        disk_gib: Resources::SMALL.disk_gib,
        lease: None,
        ssh: None,
        isolation: None,
        egress: Egress::None,
        created_at: node::clock::rfc3339(node::clock::now()),
        timings_ms: Timings::default(),
    }
}

pub fn order(name: &str) -> CreateVm {
    CreateVm {
        name: name.parse().unwrap(),
        resources: Resources::SMALL,
        image: "tiny".parse().unwrap(),
        provider: None,
        country: None,
        arch: None,
        max_price: None,
        backend: None,
        isolation: Default::default(),
        duration_s: 3600,
        or_less: false,
        allow_smaller: false,
        project: None,
        ssh_key: None,
        user_data: None,
        ports: Vec::new(),
        timeout_s: 60,
        wait: true,
    }
}
