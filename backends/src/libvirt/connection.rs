//! The connection to libvirt. The embedded driver needs no daemon: it lives in this process, with its state below the
//! node's home, and leaves its guests running when the process ends.
use crate::libvirt::LibvirtConfig;
use protocol::{ErrorCode, Fault};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;
use std::{fs, panic, thread};
use virt::connect::Connect;
use virt::error::Error;

/// Read by the embedded driver. Without virtlogd QEMU writes its own log; the sandbox is asked for by name, since
/// under emulation it is what stands between a guest and the host.
const QEMU_CONF: &str = "stdio_handler = \"file\"\nseccomp_sandbox = 1\n";
/// The users as whom distributions run QEMU under a root libvirt.
const QEMU_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];
/// An event loop that cannot run (never seen) must not take a core.
const LOOP_PAUSE: Duration = Duration::from_millis(100);

pub struct Connection {
    uri: String,
    embedded_root: Option<PathBuf>,
    vms: PathBuf,
    open: Mutex<Option<Connect>>,
}

impl Connection {
    pub fn new(config: &LibvirtConfig) -> Self {
        let root = config.home.join("libvirt");
        let (uri, embedded_root) = match &config.uri {
            Some(uri) => (uri.clone(), None),
            None => (format!("qemu:///embed?root={}", root.display()), Some(root)),
        };
        Connection { uri, embedded_root, vms: config.home.join("vms"), open: Mutex::new(None) }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Opened at the first use and kept: the embedded driver takes one process a root.
    pub fn get(&self) -> Result<Connect, Fault> {
        let mut open = self.lock();
        if let Some(connect) = open.as_ref().filter(|connect| connect.is_alive().unwrap_or(false)) {
            return Ok(connect.clone());
        }
        if let Some(root) = &self.embedded_root {
            prepare(root)?;
        }
        make_vms(&self.vms)?;
        run_events();
        let connect = Connect::open(Some(&self.uri)).map_err(|error| self.cannot_open(&error))?;
        *open = Some(connect.clone());
        Ok(connect)
    }

    pub fn close(&self) {
        let Some(connect) = self.lock().take() else { return };
        // The binding panics where libvirt reports a failure to close; a process that ends has nothing to mend.
        let closed = panic::catch_unwind(panic::AssertUnwindSafe(|| drop(connect)));
        if closed.is_err() {
            tracing::warn!("libvirt did not close its connection");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connect>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cannot_open(&self, error: &Error) -> Fault {
        let text = error.message();
        let hint = if text.contains("driver.pid") || text.contains("pid file") {
            "another process uses this home's libvirt: is a node running there?"
        } else if text.contains("too long") {
            "the home's path is too long for libvirt's sockets: name one of at most 45 characters with --home"
        } else if text.contains("virtlogd") || text.contains("virtqemud-sock") || text.contains("libvirt-sock") {
            "start the daemons (systemctl start libvirtd virtlogd), or leave libvirt_uri unset"
        } else if text.contains("no connection driver") || text.contains("No such file") {
            "install the QEMU driver: apt-get install libvirt-daemon qemu-system-x86"
        } else {
            "'golemnode doctor' looks into it"
        };
        Fault::new(ErrorCode::Unavailable, format!("libvirt cannot be opened at {}: {text}", self.uri)).hint(hint)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

fn prepare(root: &Path) -> Result<(), Fault> {
    let etc = root.join("etc");
    let conf = etc.join("qemu.conf");
    let written = fs::create_dir_all(&etc).and_then(|()| match fs::read_to_string(&conf) {
        Ok(text) if text == QEMU_CONF => Ok(()),
        _ => fs::write(&conf, QEMU_CONF),
    });
    written.map_err(|error| Fault::internal(format!("cannot prepare {}: {error}", root.display())))
}

/// Entered by QEMU's own user and by nobody else.
fn make_vms(vms: &Path) -> Result<(), Fault> {
    let made = fs::create_dir_all(vms)
        .and_then(|()| fs::set_permissions(vms, fs::Permissions::from_mode(0o700)))
        .and_then(|()| give_to_qemu(vms));
    made.map_err(|error| Fault::internal(format!("cannot prepare {}: {error}", vms.display())))
}

/// As root, libvirt runs QEMU as another user, who must be able to enter the folder of its disk.
pub fn give_to_qemu(dir: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    match qemu_user() {
        Some((uid, gid)) => chown(dir, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn qemu_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields = |name: &str| users.lines().find(|line| line.split(':').next() == Some(name));
    let line = QEMU_USERS.iter().find_map(|name| fields(name))?;
    let mut ids = line.split(':').skip(2).map_while(|id| id.parse().ok());
    Some((ids.next()?, ids.next()?))
}

/// libvirt's events need a loop in this process, and it must be there before a connection is opened.
fn run_events() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Errors come back as values; libvirt would also print each.
        virt::error::clear_error_callback();
        if let Err(error) = virt::event::event_register_default_impl() {
            return tracing::error!(%error, "libvirt takes no event loop");
        }
        let looping = || loop {
            if virt::event::event_run_default_impl().is_err() {
                thread::sleep(LOOP_PAUSE);
            }
        };
        if let Err(error) = thread::Builder::new().name("libvirt-events".into()).spawn(looping) {
            tracing::error!(%error, "libvirt's event loop has no thread");
        }
    });
}
