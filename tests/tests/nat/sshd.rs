//! OpenSSH's server in a namespace, as a guest has one. The simulated backend takes no seed, so it has keys of its own.
use super::world::World;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tests::{PATIENCE, eventually};

const PORT: u16 = 2222;

pub struct Sshd {
    process: Child,
    dir: tempfile::TempDir,
    endpoint: String,
}

impl Sshd {
    /// None where it is not installed.
    pub fn start(world: &World, space: &str) -> Option<Sshd> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.exists() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let [host, user] = ["host", "user"].map(|name| key(&dir.path().join(name)));
        // Where it separates its privileges; Debian makes it when the service starts.
        fs::create_dir_all("/run/sshd").unwrap();
        let mut sshd = Command::new(program);
        sshd.args(["-D", "-f", "/dev/null", "-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PidFile=none"])
            .args(["-o", "PermitRootLogin=yes", "-o", &format!("ListenAddress=127.0.0.1:{PORT}")])
            .args(["-o", "Subsystem=sftp internal-sftp"])
            .args(["-o", &format!("AuthorizedKeysFile={}", user.with_extension("pub").display()), "-h"])
            .arg(&host);
        let process = world.spawn(space, sshd, Stdio::null());
        let listening = || {
            let sockets = world.command(space, "ss").args(["-Hltn"]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8_lossy(&sockets.stdout).contains(&format!("127.0.0.1:{PORT}")).then_some(())
        };
        eventually("sshd listens", PATIENCE, listening);
        Some(Sshd { process, dir, endpoint: format!("127.0.0.1:{PORT}") })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// An ssh configuration with the host `web`, reached by `proxy`.
    pub fn config(&self, home: &Path, proxy: &str) -> PathBuf {
        let (dir, path) = (self.dir.path(), home.join("ssh_web"));
        let public = fs::read_to_string(dir.join("host.pub")).unwrap();
        fs::write(dir.join("known_hosts"), format!("web {public}")).unwrap();
        let dir = dir.display();
        let text = format!(
            "Host web\n User root\n IdentityFile {dir}/user\n IdentitiesOnly yes\n HostKeyAlias web\n \
             UserKnownHostsFile {dir}/known_hosts\n StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n \
             ProxyCommand {proxy}\n"
        );
        fs::write(&path, text).unwrap();
        path
    }
}

fn key(path: &Path) -> PathBuf {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
    path.to_owned()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
