//! Guest images in the node's home: `images/<name>/manifest.json` beside its files. An image is checked once, when it
//! comes in; after that its files are read-only and never change, since guests' overlays stand on them.
mod catalogue;
mod checksum;
mod download;
#[cfg(test)]
mod http_server;
mod manifest;
mod part;
mod plausible;
mod pull;
mod qemu_img;

#[cfg(feature = "fuzzing")]
pub(crate) use catalogue::parse as parse_catalogue;
pub use catalogue::{Catalogue, Entry, Trust, trust as trust_in, url as parse_url};
pub use checksum::Checksum;
pub use download::{PullEvent, PullSettings};
pub use manifest::{BootFile, Bundle, DiskFile, DiskFormat, Manifest};
pub use pull::Pulled;
pub(crate) use qemu_img::run;
/// For `doctor`.
pub use qemu_img::version as qemu_img_version;
#[cfg(feature = "libvirt")]
pub(crate) use qemu_img::{create_overlay, grow_overlay};
#[cfg(feature = "fuzzing")]
pub(crate) use {download::headers, part::Memo, plausible::judge as judge_raw, qemu_img::judge as judge_info};

use manifest::{MAX_DISK_FILE, MAX_INITRD, MAX_KERNEL, MAX_MANIFEST, check_boot};
use part::Whole;
use protocol::names::{Arch, Digest, GuestUser, ImageName};
use protocol::{ErrorCode, Fault};
use sha2::Digest as _;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MANIFEST: &str = "manifest.json";
/// One read of a copy: large enough for a disk's own read-ahead.
const CHUNK: usize = 1 << 20;

/// Told of the bytes copied so far, and of all there are.
pub type Copied<'a> = &'a mut dyn FnMut(u64, u64);

/// What `import` takes in.
#[derive(Clone, Debug)]
pub enum ImportSource {
    /// A folder with a manifest and the files that it names.
    Bundle { dir: PathBuf, name: Option<ImageName> },
    /// A disk by itself, perhaps with a kernel to boot it.
    Disk {
        disk: PathBuf,
        name: ImageName,
        arch: Arch,
        default_user: GuestUser,
        kernel: Option<PathBuf>,
        initrd: Option<PathBuf>,
        cmdline: Option<String>,
        /// What the disk file must hash to.
        sha256: Option<Digest>,
    },
}

#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        ImageStore { dir: dir.into() }
    }

    fn folder(&self, name: &ImageName) -> PathBuf {
        // A plus is in no image's name, and a colon in a path troubles QEMU's own parsing.
        self.dir.join(name.as_str().replace(':', "+"))
    }

    /// The path of one of an image's files.
    pub fn path(&self, name: &ImageName, file: &str) -> PathBuf {
        self.folder(name).join(file)
    }

    /// All images, by name. What is half-imported has no manifest yet and is none.
    pub fn list(&self) -> Result<Vec<Manifest>, Fault> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(broken("read", &self.dir, &error)),
        };
        let mut images = Vec::new();
        for entry in entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
            match read_json::<Manifest>(&entry.path().join(MANIFEST)) {
                Ok(manifest) if self.folder(&manifest.name) == entry.path() => images.push(manifest),
                Ok(manifest) => {
                    tracing::warn!(name = %manifest.name, "an image in a folder of another name is ignored")
                }
                Err(fault) => tracing::warn!(%fault, "an image that cannot be read is ignored"),
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    pub fn get(&self, name: &ImageName) -> Result<Manifest, Fault> {
        let path = self.path(name, MANIFEST);
        if !path.exists() {
            return Err(Fault::new(ErrorCode::NoSuchImage, format!("no image '{name}' here"))
                .hint("'golemnode image list' shows what there is, 'image import' and 'image pull' bring one"));
        }
        read_json(&path)
    }

    /// Hashes every file anew.
    pub fn verify(&self, name: &ImageName) -> Result<Manifest, Fault> {
        let manifest = self.get(name)?;
        let disk = &manifest.disk;
        let files = manifest.boot_files().map(|file| (&file.file, file.sha256));
        for (file, expected) in files.chain([(&disk.file, disk.sha256)]) {
            let path = self.path(name, file);
            let mut source = File::open(&path).map_err(|error| broken("read", &path, &error))?;
            let (found, _) = copy(&mut source, &mut std::io::sink(), u64::MAX, &path, &mut |_| {})?;
            if found != expected {
                return Err(mismatch(&path, expected, found));
            }
        }
        Ok(manifest)
    }

    /// Takes an image in: copied, hashed and checked beside the others, then moved into place whole. A failure leaves
    /// nothing.
    pub fn import(&self, source: &ImportSource, progress: Copied<'_>) -> Result<Manifest, Fault> {
        let (bundle, files, expected) = gather(source)?;
        bundle.check()?;
        let staging = self.staging()?;
        let manifest = self.take_in(staging.path(), bundle, &files, expected, progress)?;
        self.place(staging, manifest)
    }

    /// Takes a verified download in. It is linked, not copied: it may be put to use again if this fails.
    fn adopt(&self, whole: &Whole, bundle: Bundle, format: Option<DiskFormat>) -> Result<Manifest, Fault> {
        let staging = self.staging()?;
        let staged = staging.path().join("disk");
        // Few file systems have no links; there it is moved.
        let linked = fs::hard_link(&whole.path, &staged).or_else(|_| fs::rename(&whole.path, &staged));
        let kept = linked.and_then(|()| fs::set_permissions(&staged, fs::Permissions::from_mode(0o444)));
        kept.map_err(|error| broken("write", &staged, &error))?;
        let shown = self.dir.join(bundle.name.as_str());
        let disk = settle(staging.path(), &shown, false, (whole.sha256, whole.size))?;
        if let Some(format) = format.filter(|format| *format != disk.format) {
            let (name, found) = (&bundle.name, disk.format.as_str());
            return Err(Fault::invalid(format!("'{name}' is {found}, and the catalogue says {}", format.as_str()))
                .hint("mend its format in catalogue.toml"));
        }
        let manifest = Manifest {
            name: bundle.name,
            arch: bundle.arch,
            disk,
            kernel: None,
            initrd: None,
            cmdline: None,
            default_user: bundle.default_user,
            features: bundle.features,
        };
        write_manifest(staging.path(), &manifest)?;
        self.place(staging, manifest)
    }

    fn staging(&self) -> Result<TempDir, Fault> {
        fs::create_dir_all(&self.dir).map_err(|error| broken("create", &self.dir, &error))?;
        let staging = tempfile::Builder::new().prefix(".import-").tempdir_in(&self.dir);
        staging.map_err(|error| broken("write into", &self.dir, &error))
    }

    /// Whole or not at all.
    fn place(&self, staging: TempDir, manifest: Manifest) -> Result<Manifest, Fault> {
        let target = self.folder(&manifest.name);
        if let Ok(there) = self.get(&manifest.name) {
            return if there.digest() == manifest.digest() { Ok(there) } else { Err(taken(&manifest.name)) };
        }
        let shown = fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755));
        let staged = staging.keep();
        let moved = shown.and_then(|()| fs::rename(&staged, &target)).and_then(|()| File::open(&self.dir)?.sync_all());
        moved.map_err(|error| {
            // The error is the one to show; what could not be removed is hidden from every list.
            let _ = fs::remove_dir_all(&staged);
            broken("write", &target, &error)
        })?;
        Ok(manifest)
    }

    fn take_in(
        &self,
        staging: &Path,
        bundle: Bundle,
        files: &Files,
        expected: Option<Digest>,
        progress: Copied<'_>,
    ) -> Result<Manifest, Fault> {
        let size =
            |path: &Path| fs::metadata(path).map(|meta| meta.len()).map_err(|error| broken("read", path, &error));
        let boot = [(&files.kernel, "vmlinuz", MAX_KERNEL), (&files.initrd, "initrd.img", MAX_INITRD)];
        let mut total = size(&files.disk)?;
        for (path, _, _) in &boot {
            total += path.as_deref().map(size).transpose()?.unwrap_or(0);
        }
        let mut before = 0;
        let mut take = |source: &Path, name: &str, limit: u64| -> Result<(Digest, u64), Fault> {
            let taken = take_file(source, &staging.join(name), limit, &mut |done| progress(before + done, total))?;
            before += taken.1;
            Ok(taken)
        };
        let (sha256, bytes) = take(&files.disk, "disk", MAX_DISK_FILE)?;
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            return Err(mismatch(&files.disk, expected, sha256));
        }
        let disk = settle(staging, &files.disk, files.kernel.is_some(), (sha256, bytes))?;
        let mut booted = boot.into_iter().map(|(source, name, limit)| {
            let Some(source) = source else { return Ok(None) };
            let (sha256, size) = take(source, name, limit)?;
            Ok::<_, Fault>(Some(BootFile { file: name.to_owned(), sha256, size }))
        });
        let kernel = booted.next().transpose()?.flatten();
        let initrd = booted.next().transpose()?.flatten();
        let manifest = Manifest {
            name: bundle.name,
            arch: bundle.arch,
            disk,
            kernel,
            initrd,
            cmdline: bundle.cmdline,
            default_user: bundle.default_user,
            features: bundle.features,
        };
        write_manifest(staging, &manifest)?;
        Ok(manifest)
    }

    /// Refuses while a guest stands on it.
    pub fn remove(&self, name: &ImageName, used: &BTreeSet<ImageName>) -> Result<(), Fault> {
        self.get(name)?;
        if used.contains(name) {
            return Err(Fault::new(ErrorCode::WrongState, format!("image '{name}' is in use by a VM"))
                .hint("it can go when the VM is gone"));
        }
        let (folder, gone) = (self.folder(name), self.dir.join(format!(".removed-{}", std::process::id())));
        // Out of every list first: a removal that is interrupted leaves no half image.
        let moved = fs::rename(&folder, &gone).and_then(|()| fs::remove_dir_all(&gone));
        moved.map_err(|error| broken("remove", &folder, &error))
    }
}

struct Files {
    disk: PathBuf,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

fn gather(source: &ImportSource) -> Result<(Bundle, Files, Option<Digest>), Fault> {
    match source {
        ImportSource::Bundle { dir, name } => {
            let path = dir.join(MANIFEST);
            if !path.exists() {
                return Err(Fault::invalid(format!("{} has no {MANIFEST}", dir.display()))
                    .hint("docs/images.md describes a bundle; a disk alone needs --name"));
            }
            let mut bundle: Bundle = read_json(&path)?;
            bundle.check()?;
            let files = Files {
                disk: dir.join(&bundle.disk),
                kernel: bundle.kernel.as_ref().map(|file| dir.join(file)),
                initrd: bundle.initrd.as_ref().map(|file| dir.join(file)),
            };
            bundle.name = name.clone().unwrap_or(bundle.name);
            Ok((bundle, files, None))
        }
        ImportSource::Disk { disk, name, arch, default_user, kernel, initrd, cmdline, sha256 } => {
            check_boot(kernel.is_some(), initrd.is_some(), cmdline.as_deref())?;
            let bundle = Bundle {
                name: name.clone(),
                arch: *arch,
                disk: "disk".into(),
                kernel: kernel.as_ref().map(|_| "vmlinuz".into()),
                initrd: initrd.as_ref().map(|_| "initrd.img".into()),
                cmdline: cmdline.clone(),
                default_user: default_user.clone(),
                features: Vec::new(),
            };
            let files = Files { disk: disk.clone(), kernel: kernel.clone(), initrd: initrd.clone() };
            Ok((bundle, files, *sha256))
        }
    }
}

/// Looks at the disk that was staged as `disk`, and gives it the name that says what it is.
fn settle(staging: &Path, shown: &Path, kernel: bool, (sha256, size): (Digest, u64)) -> Result<DiskFile, Fault> {
    let staged = staging.join("disk");
    let info = qemu_img::inspect(&staged)?;
    if info.format == DiskFormat::Raw {
        plausible::check_raw(&staged, shown, kernel)?;
    }
    let file = format!("disk.{}", info.format.as_str());
    fs::rename(&staged, staging.join(&file)).map_err(|error| broken("write", &staging.join(&file), &error))?;
    Ok(DiskFile { file, sha256, format: info.format, virtual_size_bytes: info.virtual_size, size })
}

fn write_manifest(staging: &Path, manifest: &Manifest) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
    let path = staging.join(MANIFEST);
    let written = File::create(&path).and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
    written.map_err(|error| broken("write", &path, &error))
}

/// Copies a plain file, no link: hashed on the way, on disk and read-only when this returns.
fn take_file(source: &Path, target: &Path, limit: u64, progress: &mut dyn FnMut(u64)) -> Result<(Digest, u64), Fault> {
    let meta = fs::symlink_metadata(source).map_err(|error| broken("read", source, &error))?;
    if !meta.is_file() {
        return Err(Fault::invalid(format!("{} is not a plain file", source.display())));
    }
    if meta.len() > limit {
        let most = limit >> 20;
        return Err(Fault::invalid(format!("{} has {} MiB, more than {most}", source.display(), meta.len() >> 20)));
    }
    let mut from = File::open(source).map_err(|error| broken("read", source, &error))?;
    let mut to = File::create(target).map_err(|error| broken("write", target, &error))?;
    let taken = copy(&mut from, &mut to, limit, target, progress)?;
    let kept = to.sync_all().and_then(|()| to.set_permissions(fs::Permissions::from_mode(0o444)));
    kept.map_err(|error| broken("write", target, &error))?;
    Ok(taken)
}

fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    limit: u64,
    shown: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(Digest, u64), Fault> {
    let (mut hash, mut done, mut chunk) = (sha2::Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let read = from.read(&mut chunk).map_err(|error| broken("read", shown, &error))?;
        if read == 0 {
            return Ok((Digest(hash.finalize().into()), done));
        }
        done += read as u64;
        if done > limit {
            return Err(Fault::invalid(format!("{} grew while it was read", shown.display())));
        }
        hash.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(|error| broken("write", shown, &error))?;
        progress(done);
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| broken("read", path, &error))?;
    file.take(MAX_MANIFEST).read_to_string(&mut text).map_err(|error| broken("read", path, &error))?;
    serde_json::from_str(&text).map_err(|error| Fault::invalid(format!("{}: {error}", path.display())))
}

fn taken(name: &ImageName) -> Fault {
    Fault::new(ErrorCode::VmExists, format!("there is another image '{name}' already"))
        .hint("give this one another --name, or remove the other first")
}

fn mismatch(path: &Path, expected: Digest, found: Digest) -> Fault {
    Fault::new(ErrorCode::ChecksumMismatch, format!("{} is not what was expected", path.display()))
        .details(format!("sha256 {found}, expected {expected}"))
        .hint("fetch it again; if that does not help, the checksum is of another file")
}

fn broken(what: &str, path: &Path, error: &std::io::Error) -> Fault {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull => {
            Fault::new(ErrorCode::Exhausted, message).hint("free some space on that disk")
        }
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Fault::invalid(message),
        _ => Fault::internal(message),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
