//! The store as one file:
//!
//! ```text
//! "golemnode store\n"  format u16  schema u32  peer id 32 bytes  time_ms u64
//! { part u8 (1..)  key length u16  value length u32  key  value } …
//! 0 u8  rows u64  SHA-256 of all before, 32 bytes                          numbers are big-endian
//! ```
//! It is written and read row by row; a file that ends early, or of which one bit is another, is refused at its end.
use super::{MAX_KEY, Part, RawRow, SCHEMA, Store};
use crate::config::io;
use protocol::codec::MAX_STORED;
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"golemnode store\n";
const FORMAT: u16 = 1;
/// Where rows would be another part's number.
const END: u8 = 0;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub schema: u32,
    pub peer: PeerId,
    pub time_ms: u64,
}

/// The answer to a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    pub file: PathBuf,
    pub peer_id: PeerId,
    pub rows: u64,
    pub bytes: u64,
}

/// Writes all of the store into a file for its owner only. It has its name when it is whole and on disk. `state` is one
/// moment of what the core keeps (`Store::moment`); the rest may be a few rows ahead of it, and depends on none of it.
pub fn write(
    store: &Store,
    state: &[RawRow],
    header: &Header,
    file: &Path,
    overwrite: bool,
) -> Result<BackupView, Fault> {
    if !overwrite && file.exists() {
        return Err(Fault::invalid(format!("{} is there already", file.display())).hint("--yes replaces it"));
    }
    let part = part_of(file)?;
    let written = write_part(store, state, header, &part).and_then(|written| {
        std::fs::rename(&part, file).map_err(|error| io("write", file, &error))?;
        sync_dir(file.parent().unwrap_or(Path::new("/")))?;
        Ok(written)
    });
    if written.is_err() {
        // Of no use to anybody; the fault says what happened.
        let _ = std::fs::remove_file(&part);
    }
    let (rows, bytes) = written?;
    Ok(BackupView { file: file.to_owned(), peer_id: header.peer, rows, bytes })
}

/// Beside the file, so that renaming it moves no bytes.
fn part_of(file: &Path) -> Result<PathBuf, Fault> {
    let name = file.file_name().ok_or_else(|| Fault::invalid(format!("{} names no file", file.display())))?;
    let mut part = name.to_owned();
    part.push(format!(".part-{}", std::process::id()));
    Ok(file.with_file_name(part))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), Fault> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io("write", dir, &error))
}

fn write_part(store: &Store, state: &[RawRow], header: &Header, part: &Path) -> Result<(u64, u64), Fault> {
    let failed = |error: std::io::Error| io("write", part, &error);
    // One that a process of the same number left behind is not whole.
    let _ = std::fs::remove_file(part);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(failed)?;
    let mut to = Summed { inner: BufWriter::new(file), sum: Sha256::new(), bytes: 0 };
    let mut rows = 0;
    to.header(header).map_err(failed)?;
    for row in state {
        to.row(row).map_err(failed)?;
        rows += 1;
    }
    for part in Part::ALL.into_iter().filter(|part| *part != Part::State) {
        for row in store.rows(part) {
            to.row(&row?).map_err(failed)?;
            rows += 1;
        }
    }
    to.write_all(&[END]).and_then(|()| to.write_all(&u64::to_be_bytes(rows))).map_err(failed)?;
    let sum = to.sum.clone().finalize();
    to.write_all(&sum).map_err(failed)?;
    let file = to.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok((rows, to.bytes))
}

/// Bytes that are summed up as they pass.
struct Summed<T> {
    inner: T,
    sum: Sha256,
    bytes: u64,
}

impl<T: Write> Summed<T> {
    fn header(&mut self, header: &Header) -> std::io::Result<()> {
        self.write_all(MAGIC)?;
        self.write_all(&FORMAT.to_be_bytes())?;
        self.write_all(&header.schema.to_be_bytes())?;
        self.write_all(header.peer.public_key())?;
        self.write_all(&header.time_ms.to_be_bytes())
    }
    fn row(&mut self, row: &RawRow) -> std::io::Result<()> {
        // Longer ones are never written to the store: a value that could not be read back would be no backup.
        let long = |_| std::io::Error::other("a row is too long for a backup");
        self.write_all(&[row.part as u8 + 1])?;
        self.write_all(&u16::try_from(row.key.len()).map_err(long)?.to_be_bytes())?;
        self.write_all(&u32::try_from(row.value.len()).map_err(long)?.to_be_bytes())?;
        self.write_all(&row.key)?;
        self.write_all(&row.value)
    }
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Summed<T> {
    fn read<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.sum.update(bytes);
        Ok(bytes)
    }
    fn read_vec(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.inner.read_exact(&mut bytes)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }
}

/// A backup being read. Nothing of it may be believed before `next_row` has said that it is at its end.
pub struct Reader {
    pub header: Header,
    from: Summed<BufReader<File>>,
    path: PathBuf,
    rows: u64,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Fault::new(ErrorCode::NoSuchResource, format!("there is no file {}", path.display()))
            }
            _ => io("read", path, &error),
        };
        let file = File::open(path).map_err(missing)?;
        let mut from = Summed { inner: BufReader::new(file), sum: Sha256::new(), bytes: 0 };
        let no_backup = || {
            Fault::invalid(format!("{} is not a backup of a store", path.display()))
                .hint("'golemnode db backup FILE' makes one")
        };
        let magic: [u8; 16] = from.read().map_err(|_| no_backup())?;
        if &magic != MAGIC {
            return Err(no_backup());
        }
        let format = u16::from_be_bytes(from.read().map_err(|_| cut_short(path))?);
        if format != FORMAT {
            return Err(newer(path, &format!("format {format}, not {FORMAT}")));
        }
        let mut header = || -> std::io::Result<Header> {
            Ok(Header {
                schema: u32::from_be_bytes(from.read()?),
                peer: PeerId::from_public_key(from.read()?),
                time_ms: u64::from_be_bytes(from.read()?),
            })
        };
        let header = header().map_err(|_| cut_short(path))?;
        if header.schema > SCHEMA {
            return Err(newer(path, &format!("layout {}, not {SCHEMA}", header.schema)));
        }
        Ok(Reader { header, from, path: path.to_owned(), rows: 0 })
    }

    /// None at the end, once the sum was right.
    pub fn next_row(&mut self) -> Result<Option<RawRow>, Fault> {
        let part = self.read::<1>()?[0];
        if part == END {
            return self.end().map(|()| None);
        }
        let known = Part::ALL.into_iter().find(|known| *known as u8 + 1 == part);
        let (key, value) = (u16::from_be_bytes(self.read()?), u32::from_be_bytes(self.read()?));
        let (key, value) = (usize::from(key), value as usize);
        let Some(part) = known.filter(|_| key <= MAX_KEY && value <= MAX_STORED) else {
            return Err(damaged(&self.path, "it has a row that is never written"));
        };
        let row = RawRow { part, key: self.read_vec(key)?, value: self.read_vec(value)? };
        self.rows += 1;
        Ok(Some(row))
    }

    fn end(&mut self) -> Result<(), Fault> {
        let rows = u64::from_be_bytes(self.read()?);
        let sum: [u8; 32] = self.from.sum.clone().finalize().into();
        if self.read::<32>()? != sum || rows != self.rows {
            return Err(damaged(&self.path, "its checksum is of other bytes"));
        }
        match self.from.inner.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err(damaged(&self.path, "something stands behind its end")),
        }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.from.read().map_err(|_| cut_short(&self.path))
    }
    fn read_vec(&mut self, length: usize) -> Result<Vec<u8>, Fault> {
        self.from.read_vec(length).map_err(|_| cut_short(&self.path))
    }
}

fn cut_short(path: &Path) -> Fault {
    damaged(path, "it ends early")
}
fn damaged(path: &Path, how: &str) -> Fault {
    Fault::invalid(format!("{} is damaged: {how}", path.display())).hint("take another backup")
}
fn newer(path: &Path, what: &str) -> Fault {
    Fault::invalid(format!("{} was written by a newer version of golemnode ({what})", path.display()))
        .hint("restore it with the version that wrote it")
}
