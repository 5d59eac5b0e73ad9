//! KVM where it truly works. The device is no proof: there are hosts on which it opens, libvirt reports it, and every
//! guest hangs. So the first guest under KVM is watched, and what came of it is remembered for this boot of the host.
use super::qemu_user;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const DEVICE: &str = "/dev/kvm";
/// Under working KVM a guest that boots uses its disk every second or two; one that is silent for so long hangs.
pub const SILENCE: Duration = Duration::from_secs(10);
/// A full distribution is at its sshd within 30 s under KVM on slow disks.
pub const FIRST_GUEST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    #[default]
    Auto,
    Kvm,
    Tcg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Works,
    Fails,
    Unproven,
}

pub struct Acceleration {
    wanted: Accel,
    device: PathBuf,
    file: PathBuf,
    known: Mutex<Option<Verdict>>,
}

impl Acceleration {
    pub fn new(wanted: Accel, home: &Path) -> Self {
        Acceleration { wanted, device: DEVICE.into(), file: home.join("libvirt/kvm-verdict"), known: Mutex::new(None) }
    }

    pub fn verdict(&self) -> Verdict {
        match self.wanted {
            Accel::Tcg => return Verdict::Fails,
            Accel::Kvm => return Verdict::Works,
            Accel::Auto => {}
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.get_or_insert_with(|| {
            let verdict = if self.device.exists() { self.remembered() } else { Verdict::Fails };
            if verdict == Verdict::Fails {
                tracing::warn!(
                    "guests are emulated: KVM is not to be had here, so they are slow and QEMU promises no isolation"
                );
            }
            verdict
        })
    }

    /// A guest that runs under KVM is held by the hardware once KVM has been seen to work, or was demanded.
    pub fn proven(&self) -> bool {
        self.verdict() == Verdict::Works || self.wanted == Accel::Tcg && self.remembered() == Verdict::Works
    }

    fn remembered(&self) -> Verdict {
        let Ok(text) = fs::read_to_string(&self.file) else { return Verdict::Unproven };
        match text.split_once(' ') {
            Some((boot, "works")) if boot == boot_id() => Verdict::Works,
            Some((boot, "fails")) if boot == boot_id() => Verdict::Fails,
            _ => Verdict::Unproven,
        }
    }

    /// A device that root may open and QEMU's user may not, as where no udev has set its group. libvirt asks QEMU as
    /// root what it can, hears of KVM, finds that it is not to be had, and asks anew: dozens of times for each start.
    pub fn closed_to_qemu(&self) -> bool {
        let Ok(device) = fs::metadata(&self.device) else { return false };
        let (mode, group) = (device.permissions().mode(), device.gid());
        let open = mode & 0o006 == 0o006 || mode & 0o060 == 0o060 && qemu_user::groups().contains(&group);
        rustix::process::geteuid().is_root() && !open
    }

    pub fn remember(&self, verdict: Verdict) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        let word = if verdict == Verdict::Works { "works" } else { "fails" };
        if verdict == Verdict::Fails {
            tracing::warn!("a first guest did not come up under KVM: guests are emulated until this host is rebooted");
        }
        // The folder is the embedded driver's, and with another one nobody has made it.
        let made = self.file.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(error) = made.and_then(|()| fs::write(&self.file, format!("{} {word}", boot_id()))) {
            tracing::warn!(%error, "the verdict on KVM is not remembered");
        }
    }
}

pub fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(home: &Path, device: &Path) -> Acceleration {
        Acceleration { device: device.into(), ..Acceleration::new(Accel::Auto, home) }
    }

    #[test]
    fn a_verdict_holds_for_this_boot_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        let device = home.path().join("kvm");
        assert_eq!(at(home.path(), &device).verdict(), Verdict::Fails, "no device");
        fs::write(&device, "").unwrap();
        assert_eq!(at(home.path(), &device).verdict(), Verdict::Unproven);
        for verdict in [Verdict::Works, Verdict::Fails] {
            at(home.path(), &device).remember(verdict);
            assert_eq!(at(home.path(), &device).verdict(), verdict);
        }
        fs::write(home.path().join("libvirt/kvm-verdict"), "another-boot fails").unwrap();
        assert_eq!(at(home.path(), &device).verdict(), Verdict::Unproven);
    }

    #[test]
    fn a_device_for_all_is_open_and_one_for_root_is_not() {
        let home = tempfile::tempdir().unwrap();
        let device = home.path().join("kvm");
        let root = rustix::process::geteuid().is_root();
        assert!(!at(home.path(), &device).closed_to_qemu(), "no device");
        fs::write(&device, "").unwrap();
        for (mode, closed) in [(0o600, root), (0o606, false), (0o604, root)] {
            fs::set_permissions(&device, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(at(home.path(), &device).closed_to_qemu(), closed, "{mode:o}");
        }
    }
}
