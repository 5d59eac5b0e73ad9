//! The part of a download that is here already. It is locked by the one pull that writes it, outlives it when that is
//! interrupted, and is hashed as it grows.
use super::checksum::Checksum;
use super::{CHUNK, broken};
use protocol::names::{Digest, ImageName};
use protocol::{ErrorCode, Fault};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const PREFIX: &str = ".pull-";
const SUFFIX: &str = ".part";
const MEMO: &str = "json";
/// Parts that nobody came back for are forgotten: after a week the vendor has most likely another file there.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Parts of different images kept at once. They take room that no list shows, so there are few.
const KEPT_AT_MOST: usize = 4;
/// What the side file may have: an address, two digests and a date.
const MAX_MEMO: u64 = 16 * 1024;
/// Lost races against other pulls' clean-ups before we give up: each needs another process between two system calls.
const OPEN_TRIES: usize = 8;

/// What the bytes are bytes of. Only the same file from the same place is gone on with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    pub url: String,
    pub expected: String,
    /// An `ETag` (a strong one) or a `Last-Modified`, as `If-Range` takes them.
    pub validator: Option<String>,
    pub total: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Part {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    pub memo: Memo,
    pub len: u64,
    expected: Checksum,
    sha256: sha2::Sha256,
    /// Only where it is asked for: it costs as much as the other.
    sha512: Option<sha2::Sha512>,
    /// Removed already: what has its path now is another's.
    gone: Cell<bool>,
}

/// A file that is what it should be.
#[derive(Debug)]
pub(super) struct Whole {
    pub path: PathBuf,
    pub sha256: Digest,
    pub size: u64,
}

impl Part {
    /// Of the image that will be called `name`. What is there of the same file is hashed again and gone on with, what
    /// is there of another is dropped. Refused while another pull is at it.
    pub fn open(dir: &Path, name: &ImageName, url: &str, expected: Checksum) -> Result<Part, Fault> {
        fs::create_dir_all(dir).map_err(|error| broken("create", dir, &error))?;
        let path = dir.join(format!("{PREFIX}{}{SUFFIX}", name.as_str().replace(':', "+")));
        clean(dir, &path);
        let file = lock(&path, name)?;
        let wanted = Memo { url: url.to_owned(), expected: expected.to_string(), ..Memo::default() };
        let known = read_memo(&path.with_extension(MEMO)).unwrap_or_default();
        let same = known.url == wanted.url && known.expected == wanted.expected && known.validator.is_some();
        let mut part = Part {
            dir: dir.to_owned(),
            path,
            file,
            memo: if same { known } else { wanted },
            len: 0,
            expected,
            sha256: sha2::Sha256::new(),
            sha512: matches!(expected, Checksum::Sha512(_)).then(sha2::Sha512::new),
            gone: Cell::new(false),
        };
        if same {
            part.hash_again()?
        } else {
            part.restart()?
        }
        Ok(part)
    }

    fn hash_again(&mut self) -> Result<(), Fault> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = (&self.file).read(&mut chunk).map_err(|error| broken("read", &self.path, &error))?;
            if read == 0 {
                return Ok(());
            }
            self.hash(&chunk[..read]);
        }
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    fn restart(&mut self) -> Result<(), Fault> {
        let emptied = self.file.set_len(0).and_then(|()| std::io::Seek::rewind(&mut self.file));
        emptied.map_err(|error| broken("write", &self.path, &error))?;
        self.len = 0;
        self.sha256 = sha2::Sha256::new();
        self.sha512 = self.sha512.as_ref().map(|_| sha2::Sha512::new());
        Ok(())
    }

    /// From the first byte: what the server says of its file is noted before any of it is here.
    pub fn begin(&mut self, validator: Option<String>, total: Option<u64>) -> Result<(), Fault> {
        self.restart()?;
        self.memo = Memo { validator, total, ..std::mem::take(&mut self.memo) };
        let text = serde_json::to_vec(&self.memo).expect("a memo is plain data");
        let path = self.path.with_extension(MEMO);
        fs::write(&path, text).map_err(|error| self.full(broken("write", &path, &error)))
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let Err(error) = self.file.write_all(bytes) {
            return Err(self.full(broken("write", &self.path, &error)));
        }
        self.hash(bytes);
        Ok(())
    }

    /// Guests need that disk more than a half image does.
    fn full(&self, fault: Fault) -> Fault {
        if fault.code == ErrorCode::Exhausted {
            self.discard();
        }
        fault
    }

    /// Before gigabytes are fetched in vain.
    pub fn check_room(&self, total: u64) -> Result<(), Fault> {
        let Ok(there) = rustix::fs::statvfs(&self.dir) else { return Ok(()) };
        let free = there.f_bavail.saturating_mul(there.f_frsize);
        let needed = total.saturating_sub(self.len);
        if needed <= free {
            return Ok(());
        }
        let message = format!(
            "the image needs {} MiB in {}, {} are free",
            needed.div_ceil(1 << 20),
            self.dir.display(),
            free >> 20
        );
        Err(self.full(Fault::new(ErrorCode::Exhausted, message).hint("free some space on that disk")))
    }

    /// Once all is here: on disk, and the bytes that were wanted, or gone.
    pub fn finish(&self) -> Result<Whole, Fault> {
        self.file.sync_all().map_err(|error| broken("write", &self.path, &error))?;
        let sha256: [u8; 32] = self.sha256.clone().finalize().into();
        let found = match &self.sha512 {
            Some(sha512) => Checksum::Sha512(sha512.clone().finalize().into()),
            None => Checksum::Sha256(sha256),
        };
        if found != self.expected {
            self.discard();
            let message = format!("what came from {} is not what its checksum says", self.memo.url);
            return Err(Fault::new(ErrorCode::ChecksumMismatch, message)
                .details(format!("{found}\nexpected {}", self.expected))
                .hint("nothing is kept of it; pull again, as the vendor may just have put a new file there"));
        }
        Ok(Whole { path: self.path.clone(), sha256: Digest(sha256), size: self.len })
    }

    /// The side file first: a part without one is never gone on with.
    pub fn discard(&self) {
        if self.gone.replace(true) {
            return;
        }
        let _ = fs::remove_file(self.path.with_extension(MEMO));
        let _ = fs::remove_file(&self.path);
    }
}

/// An empty part is not worth keeping.
impl Drop for Part {
    fn drop(&mut self) {
        if self.len == 0 {
            self.discard();
        }
    }
}

/// Opens and locks. A file that was removed between the two is locked for nobody, so the path is looked at again.
fn lock(path: &Path, name: &ImageName) -> Result<File, Fault> {
    let failed = |error: std::io::Error| broken("write", path, &error);
    for _ in 0..OPEN_TRIES {
        let opened = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let ours = file.metadata().map_err(failed)?;
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
    Err(Fault::new(ErrorCode::Unavailable, format!("'{name}' is being pulled already, by another command"))
        .hint("wait for that one, or interrupt it: what it has is gone on with"))
}

fn read_memo(path: &Path) -> Option<Memo> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_MEMO).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Drops parts that are old or too many, but none that is locked, and not the one that is wanted now.
fn clean(dir: &Path, wanted: &Path) {
    let is_part = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX) && path != wanted
    };
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_part);
    let age = |path: &Path| {
        let touched = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
        Some(SystemTime::now().duration_since(touched).unwrap_or_default())
    };
    let mut parts: Vec<(Duration, PathBuf)> = paths.filter_map(|path| Some((age(&path)?, path))).collect();
    parts.sort();
    // The wanted one is one of those kept.
    let surplus = parts.iter().enumerate().filter(|(at, (age, _))| *at + 1 >= KEPT_AT_MOST || *age > KEPT_FOR);
    for (_, (_, path)) in surplus {
        let locked = File::open(path).and_then(|file| file.try_lock().map(|()| file).map_err(Into::into));
        if let Ok(_lock) = locked {
            tracing::info!(part = %path.display(), "an old part of a pull is removed");
            let _ = fs::remove_file(path.with_extension(MEMO));
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, name: &str, expected: u8) -> Result<Part, Fault> {
        Part::open(dir, &name.parse().unwrap(), "http://x/y", Checksum::Sha256([expected; 32]))
    }
    /// With a byte in it: an empty one goes by itself.
    fn begun(dir: &Path, name: &str) -> Part {
        let mut part = open(dir, name, 1).unwrap();
        part.begin(Some("\"v1\"".into()), Some(10)).unwrap();
        part.write(b"x").unwrap();
        part
    }
    fn parts(dir: &Path) -> usize {
        let names = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().ends_with(SUFFIX)).count()
    }

    #[test]
    fn a_part_is_gone_on_with_by_one_pull_and_only_for_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = open(dir.path(), "a:1", 1).unwrap();
        part.begin(Some("\"v1\"".into()), Some(10)).unwrap();
        part.write(b"hello").unwrap();
        assert_eq!(open(dir.path(), "a:1", 1).unwrap_err().code, ErrorCode::Unavailable, "locked");
        drop(part);
        let part = open(dir.path(), "a:1", 1).unwrap();
        assert_eq!((part.len, part.memo.total, part.memo.validator.as_deref()), (5, Some(10), Some("\"v1\"")));
        drop(part);
        assert_eq!(open(dir.path(), "a:1", 2).unwrap().len, 0, "the vendor has another file now");
        let mut part = open(dir.path(), "a:1", 1).unwrap();
        part.begin(None, Some(10)).unwrap();
        part.write(b"hello").unwrap();
        drop(part);
        assert_eq!(open(dir.path(), "a:1", 1).unwrap().len, 0, "nothing says that it is still the same file");
    }

    #[test]
    fn old_parts_and_too_many_of_them_go_unless_a_pull_is_at_them() {
        let dir = tempfile::tempdir().unwrap();
        let held = begun(dir.path(), "held");
        held.file.set_modified(SystemTime::now() - 2 * KEPT_FOR).unwrap();
        begun(dir.path(), "old").file.set_modified(SystemTime::now() - 2 * KEPT_FOR).unwrap();
        begun(dir.path(), "new");
        assert_eq!(parts(dir.path()), 2, "held and new");
        for name in ["b", "c", "d", "e", "f", "g"] {
            begun(dir.path(), name);
        }
        assert_eq!(parts(dir.path()), KEPT_AT_MOST + 1, "those kept, and the one that is locked");
        drop(held);
        drop(open(dir.path(), "empty", 1).unwrap());
        assert!(!dir.path().join(".pull-empty.part").exists());
    }
}
