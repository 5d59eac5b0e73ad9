//! Readiness against real servers: OpenSSH and dropbear on loopback.
use backends::memory::{MemoryBackend, MemoryOptions};
use backends::{Backend, InstanceOrder, ssh_probe, wait_ready};
use protocol::ErrorCode;
use protocol::names::{Egress, LeaseId};
use protocol::seed::Seed;
use protocol::units::Resources;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

struct Server(Child);
impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn keygen(path: &Path) -> String {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen");
    assert!(status.success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn openssh(dir: &Path, key: &Path) -> Option<(Server, SocketAddr)> {
    let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].into_iter().find(|path| Path::new(path).exists())?;
    std::fs::create_dir_all("/run/sshd").ok();
    let port = free_port();
    let child = Command::new(sshd)
        .args(["-D", "-e", "-f", "/dev/null", "-o", "UsePAM=no", "-o", "PidFile=none"])
        .args(["-o", &format!("ListenAddress=127.0.0.1:{port}"), "-h"])
        .arg(key)
        .current_dir(dir)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some((Server(child), SocketAddr::from(([127, 0, 0, 1], port))))
}

fn dropbear(dir: &Path, key: &Path) -> Option<(Server, SocketAddr)> {
    let converted = dir.join("dropbear");
    let status = Command::new("dropbearconvert")
        .args(["openssh", "dropbear"])
        .args([key, &converted])
        .stderr(Stdio::null())
        .status()
        .ok()?;
    assert!(status.success());
    let port = free_port();
    let child = Command::new("dropbear")
        .args(["-F", "-E", "-s", "-p", &format!("127.0.0.1:{port}"), "-P"])
        .arg(dir.join("pid"))
        .arg("-r")
        .arg(&converted)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some((Server(child), SocketAddr::from(([127, 0, 0, 1], port))))
}

async fn simulated(endpoint: Option<SocketAddr>) -> (MemoryBackend, LeaseId) {
    let backend = MemoryBackend::new(MemoryOptions { endpoint, ..MemoryOptions::default() });
    let id = LeaseId([1; 16]);
    let seed = Seed {
        hostname: "web".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me".into()],
        host_key: String::new(),
        user_data: None,
    };
    let order = InstanceOrder {
        id,
        resources: Resources::SMALL,
        image: "tiny".parse().unwrap(),
        image_digest: MemoryOptions::digest_of("tiny"),
        seed,
        ports: vec![],
        egress: Egress::None,
    };
    backend.create(&order, &()).await.unwrap();
    (backend, id)
}

async fn ready_with_the_right_key_only(start: impl Fn(&Path, &Path) -> Option<(Server, SocketAddr)>, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("host");
    let public = keygen(&key);
    let other = keygen(&dir.path().join("other"));
    let Some((_server, address)) = start(dir.path(), &key) else {
        eprintln!("SKIPPED: {name} is not installed");
        return;
    };
    let (backend, id) = simulated(Some(address)).await;
    wait_ready(&backend, id, &public, Instant::now() + Duration::from_secs(20)).await.unwrap();
    ssh_probe::banner(address, Duration::from_secs(5)).await.unwrap();

    let fault = wait_ready(&backend, id, &other, Instant::now() + Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::Timeout);
    assert_eq!(fault.details.as_deref(), Some("an SSH server answers with another host key"));
}

#[tokio::test]
async fn openssh_is_ready_with_the_right_key_only() {
    ready_with_the_right_key_only(openssh, "sshd").await;
}

#[tokio::test]
async fn dropbear_is_ready_with_the_right_key_only() {
    ready_with_the_right_key_only(dropbear, "dropbear").await;
}

#[tokio::test]
async fn a_guest_that_is_gone_or_stopped_is_not_waited_for() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA";
    let (backend, id) = simulated(None).await;
    let started = Instant::now();
    let far = started + Duration::from_secs(60);
    backend.stop(id, true).await.unwrap();
    assert_eq!(wait_ready(&backend, id, key, far).await.unwrap_err().code, ErrorCode::CreateFailed);
    backend.destroy(id).await.unwrap();
    assert_eq!(wait_ready(&backend, id, key, far).await.unwrap_err().code, ErrorCode::NoSuchVm);
    assert!(started.elapsed() < Duration::from_secs(10));
}
