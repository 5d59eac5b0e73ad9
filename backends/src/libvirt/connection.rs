//! The connection to libvirt. The embedded driver needs no daemon: it lives in this process, with its state below the
//! node's home, and leaves its guests running when the process ends.
use super::LibvirtConfig;
use super::leftovers;
use super::qemu_user::QemuUser;
use super::xml::DISK;
use crate::Check;
use protocol::{ErrorCode, Fault};
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};
use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

const NO_USER: &str = "install libvirt-daemon-system (Debian, Ubuntu), or: useradd --system --user-group libvirt-qemu";
/// Sockets, disks and forwards of one guest: a guest that opens connection after connection meets this bound, and not
/// the host's.
pub const MAX_FILES: u32 = 4096;
/// An event loop that cannot run (never seen) must not take a core.
const LOOP_PAUSE: Duration = Duration::from_millis(100);
/// Guests found again answer within milliseconds.
const SETTLE: Duration = Duration::from_secs(5);

pub struct Connection {
    uri: String,
    embedded_root: Option<PathBuf>,
    home: PathBuf,
    open: Mutex<Option<Connect>>,
    /// How many connections have been opened: what was learnt over an earlier one may not hold any more.
    generation: AtomicU64,
}

impl Connection {
    pub fn new(config: &LibvirtConfig) -> Self {
        let root = config.home.join("libvirt");
        let (uri, embedded_root) = match &config.uri {
            Some(uri) => (uri.clone(), None),
            None => (format!("qemu:///embed?root={}", escape(&root)), Some(root)),
        };
        let home = config.home.clone();
        Connection { uri, embedded_root, home, open: Mutex::new(None), generation: AtomicU64::new(0) }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    /// libvirt's own test driver: its guests are entries in a table.
    pub fn is_simulated(&self) -> bool {
        self.uri.starts_with("test:")
    }
    /// Nobody else makes domains over this connection.
    pub fn is_private(&self) -> bool {
        self.embedded_root.is_some()
    }
    /// The number of the process that runs a domain of the embedded driver.
    pub fn pid_of(&self, domain: &str) -> Option<u32> {
        let file = self.embedded_root.as_ref()?.join("run/qemu").join(format!("{domain}.pid"));
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }
    /// Whom the embedded driver of a node that is root runs QEMU as. A daemon's own settings say whom it takes.
    pub fn qemu_user(&self) -> Option<QemuUser> {
        let ours = self.is_private() && rustix::process::geteuid().is_root();
        ours.then(QemuUser::of_this_host).flatten()
    }
    /// Where the embedded driver has QEMU write what it says. It keeps that when a domain goes.
    pub fn log_of(&self, domain: &str) -> Option<PathBuf> {
        Some(self.embedded_root.as_ref()?.join("log/qemu").join(format!("{domain}.log")))
    }

    /// Opened at the first use and kept: the embedded driver takes one process a root.
    pub fn get(&self) -> Result<Connect, Fault> {
        let mut open = self.lock();
        if let Some(connect) = open.as_ref().filter(|connect| connect.is_alive().unwrap_or(false)) {
            return Ok(connect.clone());
        }
        check_path(&self.home, self.is_private())?;
        // Held until the driver is open, and so has its own lock.
        let _looked = self.embedded_root.as_deref().map(prepare).transpose()?;
        let vms = self.home.join("vms");
        let made = fs::create_dir_all(&vms).and_then(|()| self.let_qemu_in(&vms));
        made.map_err(|error| cannot_prepare(&vms, &error))?;
        run_events();
        let connect = Connect::open(Some(&self.uri)).map_err(|error| self.cannot_open(&error))?;
        if self.is_private() {
            leftovers::note_open();
            settle(&connect);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        *open = Some(connect.clone());
        Ok(connect)
    }

    /// QEMU's user passes through to the files that libvirt gives to it. It can neither list the folder nor put
    /// anything into it: a guest that breaks out finds no other's disk by looking, and no way to trick root.
    pub fn let_qemu_in(&self, dir: &Path) -> std::io::Result<()> {
        let mode = if !rustix::process::geteuid().is_root() {
            // The system's daemon runs QEMU as a user in none of our groups.
            if self.uri.contains("/system") { 0o711 } else { 0o700 }
        } else if let Some(user) = QemuUser::of_this_host() {
            chown(dir, Some(0), Some(user.gid))?;
            0o710
        } else {
            0o700
        };
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
    }

    pub fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    pub fn check_user(&self) -> Check {
        let whom = match self.qemu_user() {
            Some(user) => format!("QEMU runs as {}, in its sandbox", user.name),
            None if !self.is_private() => "the daemon's own settings say as whom QEMU runs".to_owned(),
            None if rustix::process::geteuid().is_root() => {
                return Check::bad("QEMU's user", "there is none, and QEMU must not run as root", NO_USER);
            }
            None => {
                let detail = "QEMU runs in its sandbox, as this user: a guest that breaks out has all of its files";
                let hint = "provide as root, or from an account made for it".to_owned();
                return Check { hint: Some(hint), ..Check::ok("QEMU's user", detail) };
            }
        };
        Check::ok("QEMU's user", whom)
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

/// A path goes into XML, a URI and command lines: what one of them cannot say is refused before anything is made.
/// libvirt 9.0 does not escape the path of a socket when it asks QEMU what it can: there `,` and `=` mean something.
fn check_path(home: &Path, embedded: bool) -> Result<(), Fault> {
    let bad = |c: char| c.is_control() || embedded && (c == ',' || c == '=');
    if home.to_str().is_some_and(|text| !text.contains(bad)) {
        return Ok(());
    }
    Err(Fault::invalid(format!("libvirt cannot use the home {}", home.display()))
        .hint("name one with --home, in UTF-8, without line breaks, commas and equals signs"))
}

/// As a value in a URI's query.
fn escape(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let text = path.to_string_lossy();
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn cannot_prepare(dir: &Path, error: &std::io::Error) -> Fault {
    Fault::internal(format!("cannot prepare {}: {error}", dir.display()))
}

fn prepare(root: &Path) -> Result<File, Fault> {
    let etc = root.join("etc");
    let conf = etc.join("qemu.conf");
    // An ordinary user's driver runs QEMU as that user, and takes no other.
    let is_root = rustix::process::geteuid().is_root();
    let user = is_root.then(QemuUser::of_this_host).flatten();
    if is_root && user.is_none() {
        return Err(Fault::new(ErrorCode::Unavailable, "QEMU has no user of its own here, and must not run as root")
            .hint(NO_USER));
    }
    let wanted = qemu_conf(user);
    let written = fs::create_dir_all(&etc).and_then(|()| match fs::read_to_string(&conf) {
        Ok(text) if text == wanted => Ok(()),
        _ => fs::write(&conf, wanted),
    });
    written.and_then(|()| leftovers::forget(root)).map_err(|error| cannot_prepare(root, &error))
}

/// Read by the embedded driver. Without virtlogd QEMU writes its own log. What stands between a guest and the host is
/// asked for by name, whatever the distribution's defaults: the sandbox, a user without rights, no image of a guest's
/// memory on the disk.
fn qemu_conf(user: Option<QemuUser>) -> String {
    // libvirt allows one more than it is told.
    let files = MAX_FILES - 1;
    let mut conf = format!("stdio_handler = \"file\"\nseccomp_sandbox = 1\nmax_core = 0\nmax_files = {files}\n");
    if let Some(QemuUser { name, .. }) = user {
        conf.push_str(&format!("user = \"{name}\"\ngroup = \"{name}\"\nclear_emulator_capabilities = 1\n"));
    }
    conf
}

/// The embedded driver finds its guests' processes again in threads of its own, and until then says that each runs as
/// it did, also one that has ended. A question that QEMU itself must answer waits for that.
fn settle(connect: &Connect) {
    let running = connect.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE).unwrap_or_default();
    let (answered, answers) = mpsc::sync_channel(running.len());
    let mut asked = 0;
    for domain in running {
        let answered = answered.clone();
        // A guest whose QEMU hangs must hold up nobody: its thread is left to wait alone.
        let ask = move || {
            let _ = domain.block_stats(DISK);
            let _ = answered.send(());
        };
        asked += usize::from(thread::Builder::new().name("libvirt-settle".into()).spawn(ask).is_ok());
    }
    let deadline = Instant::now() + SETTLE;
    for _ in 0..asked {
        if answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            return tracing::warn!("a guest found again does not answer libvirt");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_of_any_name_is_one_value_of_the_uri() {
        assert_eq!(escape(Path::new("/tmp/a b&c=d?#%é")), "/tmp/a%20b%26c%3Dd%3F%23%25%C3%A9");
        check_path(Path::new("/tmp/it's <a> \"home\" & é"), true).unwrap();
        check_path(Path::new("/tmp/a,b"), false).unwrap();
        for bad in ["/tmp/a\nb", "/tmp/\u{1}", "/tmp/a,b", "/tmp/a=b"] {
            assert_eq!(check_path(Path::new(bad), true).unwrap_err().code, ErrorCode::InvalidRequest);
        }
    }
}
