//! scp through us and to the port itself, in turns, with the same client, keys and options.
use crate::stats::{median, ratio};
use crate::streams::Result;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::eventually;

/// A file of noise: nothing on the way may compress it.
fn noise(path: &Path, mib: usize) -> Result<()> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    Ok(fs::write(path, bytes)?)
}

fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(started.elapsed())
}

/// OpenSSH's server on loopback, as the guest has one.
pub struct Sshd {
    process: Child,
    dir: tempfile::TempDir,
    pub addr: String,
}

impl Sshd {
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let key = |name: &str| -> Result<PathBuf> {
            let path = dir.path().join(name);
            timed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path))?;
            Ok(path)
        };
        let (host, user) = (key("host")?, key("user")?);
        let public = fs::read_to_string(host.with_extension("pub"))?;
        fs::write(dir.path().join("known_hosts"), format!("bench {public}"))?;
        // Taken and given back: sshd cannot be told to choose.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Where sshd separates its privileges; Debian makes it when the service starts.
        fs::create_dir_all("/run/sshd")?;
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-f", "/dev/null", "-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PidFile=none"])
            .args(["-o", "PermitRootLogin=yes", "-o", &format!("ListenAddress=127.0.0.1:{port}")])
            .args(["-o", "Subsystem=sftp internal-sftp"])
            .args(["-o", &format!("AuthorizedKeysFile={}", user.with_extension("pub").display()), "-h"])
            .arg(&host)
            .stderr(Stdio::null())
            .spawn()?;
        let addr = format!("127.0.0.1:{port}");
        eventually("sshd listens", tests::PATIENCE, || std::net::TcpStream::connect(&addr).ok());
        Ok(Sshd { process, dir, addr })
    }
    /// An ssh configuration with the host `bench`.
    fn config(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("config");
        let dir = self.dir.path().display();
        let port = self.addr.rsplit(':').next().unwrap_or_default();
        fs::write(
            &path,
            format!(
                "Host bench\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {dir}/user\n \
                 IdentitiesOnly yes\n HostKeyAlias bench\n UserKnownHostsFile {dir}/known_hosts\n \
                 StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n"
            ),
        )?;
        Ok(path)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What all CPUs of this machine have worked so far, in seconds (proc_stat(5): everything but idle and waiting).
fn worked() -> Result<f64> {
    /// USER_HZ, which is 100 on every architecture that Linux still has.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map(|field| field.parse().unwrap_or_default()).collect();
    Ok(ticks.iter().take(8).sum::<f64>() / TICKS - (ticks[3] + ticks[4]) / TICKS)
}

fn compare(title: &str, pairs: usize, mib: usize, scp: &dyn Fn(bool) -> Command) -> Result<crate::stats::Ratio> {
    let (mut took, mut work) = (Vec::new(), Vec::new());
    // Once each to warm up.
    timed(&mut scp(true))?;
    timed(&mut scp(false))?;
    for pair in 0..pairs {
        let start = worked()?;
        let first = timed(&mut scp(pair % 2 == 0))?.as_secs_f64();
        let middle = worked()?;
        let second = timed(&mut scp(pair % 2 != 0))?.as_secs_f64();
        let work_of = (middle - start, worked()? - middle);
        let direct_first = |(a, b)| if pair % 2 == 0 { (b, a) } else { (a, b) };
        took.push(direct_first((first, second)));
        work.push(direct_first(work_of));
    }
    let rate = |pick: fn(&(f64, f64)) -> f64| mib as f64 / median(&took.iter().map(pick).collect::<Vec<_>>());
    let cost = |pick: fn(&(f64, f64)) -> f64| median(&work.iter().map(pick).collect::<Vec<_>>()) * 1e3 / mib as f64;
    println!("\n## scp of {mib} MiB to {title}, {pairs} pairs");
    println!("  through us {:>6.1} MiB/s, direct {:>6.1} MiB/s (medians)", rate(|pair| pair.1), rate(|pair| pair.0));
    let (ours, direct) = (cost(|pair| pair.1), cost(|pair| pair.0));
    println!("  CPU time a MiB: through us {ours:.1} ms, direct {direct:.1} ms, of all processes on all CPUs");
    Ok(ratio(&took))
}

/// `vm` of the home leads to the sshd.
pub fn loopback(home: &Path, vm: &str, sshd: &Sshd, pairs: usize) -> Result<()> {
    const MIB: usize = 256;
    let config = sshd.config()?;
    let file = sshd.dir.path().join("noise");
    noise(&file, MIB)?;
    let proxy = format!("ProxyCommand={} --home {} vm proxy {vm} 22", tests::golemnode().display(), home.display());
    let target = format!("bench:{}", sshd.dir.path().join("copy").display());
    let speed = compare("a sshd on loopback", pairs, MIB, &|through_us| {
        let mut scp = Command::new("scp");
        scp.arg("-q").arg("-F").arg(&config);
        if through_us {
            scp.arg("-o").arg(&proxy);
        }
        scp.arg(&file).arg(&target);
        scp
    })?;
    crate::goal("speed through us / direct", &speed, 0.80);
    Ok(())
}

/// The guest's own sshd: `vm` of the tenant, reached at `port` of this host without us.
pub fn guest(tenant: &tests::Home, vm: &str, alias: &str, port: u16, pairs: usize) -> Result<()> {
    const MIB: usize = 20;
    let dir = tempfile::tempdir()?;
    let (config, file) = (dir.path().join("config"), dir.path().join("noise"));
    fs::write(&config, tenant.run(&["vm", "ssh-config"]).ok().stdout())?;
    noise(&file, MIB)?;
    let direct = ["ProxyCommand=none".to_owned(), "HostName=127.0.0.1".to_owned(), format!("Port={port}")];
    let speed = compare("the guest (its cipher is emulated)", pairs, MIB, &|through_us| {
        let mut scp = Command::new("scp");
        scp.arg("-q").arg("-F").arg(&config).args(["-o", &format!("HostKeyAlias={alias}")]);
        if !through_us {
            scp.args(direct.iter().flat_map(|option| ["-o", option]));
        }
        scp.arg(&file).arg(format!("{vm}:/tmp/copy"));
        scp
    })?;
    crate::goal("speed through us / direct", &speed, 0.80);
    Ok(())
}
