//! `vm create` until the first command over ssh, in turns with a script of virsh and a seed on the same image.
use crate::stats::{median, percentile, ratio};
use crate::streams::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::Home;

pub const TINY: [&str; 8] = ["--image", "tiny", "--cpus", "1", "--memory", "256M", "--disk", "1G"];

/// The script's folder: everything of it goes with it.
struct Plain {
    bundle: PathBuf,
    dir: tempfile::TempDir,
}

impl Plain {
    fn new(bundle: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gn-").rand_bytes(5).tempdir_in("/tmp")?;
        // QEMU runs as a user of its own.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let images = dir.path().join("image");
        std::fs::create_dir(&images)?;
        for file in std::fs::read_dir(bundle)? {
            let file = file?;
            std::fs::copy(file.path(), images.join(file.file_name()))?;
        }
        Ok(Plain { bundle: images, dir })
    }
    fn script(&self, args: [&Path; 2]) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/plain-vm.sh");
        let status = Command::new(script).args(args).stdin(Stdio::null()).status()?;
        status.success().then_some(()).ok_or_else(|| "plain-vm.sh failed".into())
    }
    fn create(&self) -> Result<Duration> {
        let started = Instant::now();
        self.script([&self.bundle, self.dir.path()])?;
        Ok(started.elapsed())
    }
    fn destroy(&self) -> Result<()> {
        self.script([Path::new("--destroy"), self.dir.path()])
    }
}

/// What `timings_ms` says of one create.
struct Ours {
    wall: Duration,
    added: f64,
}

fn ours(tenant: &Home) -> Result<Ours> {
    let started = Instant::now();
    let mut args = vec!["vm", "create", "web"];
    args.extend(TINY);
    let vm = tenant.json(&args);
    tenant.run(&["vm", "ssh", "web", "--", "true"]).ok();
    let wall = started.elapsed();
    let stage = |name: &str| vm["timings_ms"][name].as_f64().ok_or("no timings");
    // What is not the hypervisor's and the guest's own: finding, asking, agreeing.
    let added = stage("discover")? + stage("quote")? + stage("lease")?;
    Ok(Ours { wall, added })
}

pub fn run(tenant: &Home, bundle: &Path, pairs: usize) -> Result<()> {
    let plain = Plain::new(bundle)?;
    let (mut walls, mut added) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let mut theirs = None;
        // Who goes first changes, so that neither has the warmer cache.
        if pair % 2 == 0 {
            theirs = Some(plain.create()?);
            plain.destroy()?;
        }
        let ours = ours(tenant)?;
        tenant.run(&["vm", "destroy", "web", "--yes"]).ok();
        let theirs = match theirs {
            Some(theirs) => theirs,
            None => {
                let theirs = plain.create()?;
                plain.destroy()?;
                theirs
            }
        };
        walls.push((ours.wall.as_secs_f64(), theirs.as_secs_f64()));
        added.push(ours.added);
    }
    let column = |pick: fn(&(f64, f64)) -> f64| walls.iter().map(pick).collect::<Vec<_>>();
    let (ours, theirs) = (column(|pair| pair.0), column(|pair| pair.1));
    println!("\n## From create to the first command over ssh, {pairs} pairs, tiny guest, emulated");
    println!("  golemnode  p50 {:.2} s, p95 {:.2} s", median(&ours), percentile(&ours, 95.0));
    println!("  plain      p50 {:.2} s, p95 {:.2} s", median(&theirs), percentile(&theirs, 95.0));
    println!("  time, golemnode / plain: {}", ratio(&walls));
    crate::at_most("added by us (discover + quote + lease), p50", median(&added), 150.0, "ms");
    crate::at_most("added by us (discover + quote + lease), p95", percentile(&added, 95.0), 400.0, "ms");
    Ok(())
}
