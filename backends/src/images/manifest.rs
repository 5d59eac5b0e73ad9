//! What an image is: its manifest, as it stands in the store, and as a bundle brings it.
use protocol::Fault;
use protocol::names::{Arch, Digest, GuestUser, ImageName};
use serde::{Deserialize, Serialize};

/// Largest files that are taken. Cloud images have 0.3 to 3 GB, kernels 15 MB, initrds 100 MB: enough for any of
/// them, and not enough to fill a host by mistake.
pub const MAX_DISK_FILE: u64 = 64 << 30;
pub const MAX_KERNEL: u64 = 256 << 20;
pub const MAX_INITRD: u64 = 1 << 30;
/// Largest disk that a guest may see from an image: beyond it the overlay's tables themselves get large.
pub const MAX_VIRTUAL_SIZE: u64 = 2 << 40;
/// The kernel itself takes 2048 bytes on x86.
pub const MAX_CMDLINE: usize = 2000;
pub const MAX_FEATURES: usize = 16;
pub const MAX_FEATURE: usize = 32;
/// A manifest is read whole, so it is bounded.
pub const MAX_MANIFEST: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFile {
    pub file: String,
    pub sha256: Digest,
    pub format: DiskFormat,
    /// What the guest sees: an order's disk is never smaller.
    pub virtual_size_bytes: u64,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    pub file: String,
    pub sha256: Digest,
    pub size: u64,
}

/// `manifest.json` in the store. Written by `import` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: ImageName,
    pub arch: Arch,
    pub disk: DiskFile,
    /// With a kernel the guest is booted without firmware and boot loader, which saves seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<BootFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<BootFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    pub default_user: GuestUser,
    #[serde(default)]
    pub features: Vec<String>,
}

impl Manifest {
    /// Covers everything: the files by their hashes, and how they are booted. Field order is fixed by the type, so
    /// equal manifests have equal digests on every node.
    pub fn digest(&self) -> Digest {
        let canonical = serde_json::to_vec(self).expect("a manifest is plain data");
        Digest::of(&canonical)
    }
    /// The smallest disk that an order can ask for.
    pub fn least_disk_gib(&self) -> u64 {
        self.disk.virtual_size_bytes.div_ceil(1 << 30)
    }
    pub(crate) fn boot_files(&self) -> impl Iterator<Item = &BootFile> {
        self.kernel.iter().chain(self.initrd.iter())
    }
}

/// `manifest.json` of a bundle, a folder that `import` reads:
/// ```text
/// tiny/manifest.json  {"name":"tiny","arch":"x86_64","disk":"disk.qcow2","kernel":"vmlinuz","initrd":"initrd.img",
///                      "cmdline":"root=/dev/vda console=ttyS0","default_user":"root","features":[]}
/// tiny/disk.qcow2     raw or qcow2, with neither a backing file nor an external data file
/// tiny/vmlinuz        optional, and so are initrd.img and the command line
/// ```
/// Files are named plainly: no folders, no links. Sizes and hashes are not in it, `import` finds them. Without
/// `manifest.json` a folder with `disk.qcow2` (and `vmlinuz`, `initrd.img`) is taken for this host's architecture
/// and user root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    pub name: ImageName,
    pub arch: Arch,
    pub disk: String,
    #[serde(default)]
    pub kernel: Option<String>,
    #[serde(default)]
    pub initrd: Option<String>,
    #[serde(default)]
    pub cmdline: Option<String>,
    pub default_user: GuestUser,
    #[serde(default)]
    pub features: Vec<String>,
}

impl Bundle {
    pub(crate) fn files(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.disk).chain(self.kernel.iter()).chain(self.initrd.iter())
    }
    pub(crate) fn check(&self) -> Result<(), Fault> {
        for file in self.files() {
            let plain = !file.is_empty() && !file.starts_with('.') && !file.contains(['/', '\\', '\0']);
            if !plain {
                return Err(Fault::invalid(format!("the bundle names the file '{file}'"))
                    .hint("a bundle's files stand beside its manifest.json and are named plainly"));
            }
        }
        check_boot(self.kernel.is_some(), self.initrd.is_some(), self.cmdline.as_deref())?;
        check_features(&self.features)
    }
}

pub(crate) fn check_boot(kernel: bool, initrd: bool, cmdline: Option<&str>) -> Result<(), Fault> {
    if !kernel && (initrd || cmdline.is_some()) {
        return Err(Fault::invalid("an image with an initrd or a command line needs a kernel too"));
    }
    let cmdline = cmdline.unwrap_or_default();
    if cmdline.len() > MAX_CMDLINE || !cmdline.chars().all(|c| (' '..='~').contains(&c)) {
        return Err(Fault::invalid(format!(
            "the kernel's command line is not plain ASCII of at most {MAX_CMDLINE} bytes"
        )));
    }
    Ok(())
}

fn check_features(features: &[String]) -> Result<(), Fault> {
    let fine = |f: &String| f.len() <= MAX_FEATURE && f.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if features.len() > MAX_FEATURES || !features.iter().all(fine) {
        return Err(Fault::invalid(format!(
            "an image has at most {MAX_FEATURES} features of {MAX_FEATURE} letters, digits and dashes"
        )));
    }
    Ok(())
}
