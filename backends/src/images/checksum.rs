//! What a file must hash to: a digest by itself, or a line of the file that a vendor puts beside its images.
use protocol::{ErrorCode, Fault};
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

impl Checksum {
    pub fn algorithm(&self) -> &'static str {
        match self {
            Checksum::Sha256(_) => "sha256",
            Checksum::Sha512(_) => "sha512",
        }
    }
    pub fn hex(&self) -> String {
        match self {
            Checksum::Sha256(bytes) => hex::encode(bytes),
            Checksum::Sha512(bytes) => hex::encode(bytes),
        }
    }

    /// The line for `file` in the lists that `sha256sum` and its kin write (`HEX  FILE`, `HEX *FILE`), or BSD's
    /// (`SHA256 (FILE) = HEX`). Where it is named twice with different digests, neither is believed. A folder (`./`) has
    /// no checksum, so no name finds none.
    pub fn find(list: &str, file: &str) -> Option<Checksum> {
        if file.is_empty() {
            return None;
        }
        let mut found = list.lines().filter_map(|line| of_line(line.trim(), file));
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }
}

fn of_line(line: &str, file: &str) -> Option<Checksum> {
    let plain = || {
        let (digest, name) = line.split_once(char::is_whitespace)?;
        let name = name.trim_start();
        let name = name.strip_prefix('*').unwrap_or(name);
        (name.strip_prefix("./").unwrap_or(name) == file).then_some(digest)
    };
    let bsd = || line.split_once(&format!("({file}) = ")).map(|(_, digest)| digest);
    plain().or_else(bsd)?.trim().parse().ok()
}

impl FromStr for Checksum {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let (mut short, mut long) = ([0; 32], [0; 64]);
        if hex::decode_to_slice(text, &mut short).is_ok() {
            return Ok(Checksum::Sha256(short));
        }
        hex::decode_to_slice(text, &mut long)
            .map(|()| Checksum::Sha512(long))
            .map_err(|_| Fault::invalid("not a checksum").hint("SHA-256 has 64 hex digits, SHA-512 has 128"))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), self.hex())
    }
}
impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn not_listed(list: &str, file: &str) -> Fault {
    Fault::new(
        ErrorCode::ChecksumMismatch,
        format!("{list} has no one checksum for '{file}', so it cannot be verified"),
    )
    .hint("look into that list; a digest you trust can be given instead (--sha256, or in catalogue.toml)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_the_vendors_write_it() {
        let (a, b) = ("a".repeat(64), "b".repeat(128));
        let list = format!("{a} *one.img\n{b}  two.qcow2\n# SHA256 of three\nSHA256 (three.img) = {a}\n{a}  ./four\n");
        assert_eq!(Checksum::find(&list, "one.img"), Some(Checksum::Sha256([0xaa; 32])));
        assert_eq!(Checksum::find(&list, "two.qcow2"), Some(Checksum::Sha512([0xbb; 64])));
        assert_eq!(Checksum::find(&list, "three.img"), Some(Checksum::Sha256([0xaa; 32])));
        assert_eq!(Checksum::find(&list, "four"), Some(Checksum::Sha256([0xaa; 32])));
        for absent in ["ne.img", "one", "img", "", "five"] {
            assert_eq!(Checksum::find(&list, absent), None, "{absent}");
        }
        let twice = format!("{a}  x\n{}  x\n", "c".repeat(64));
        assert_eq!(Checksum::find(&twice, "x"), None, "two digests for one file");
        assert_eq!(Checksum::find("zz  x\nabcd  x", "x"), None, "no digest at all");
    }
}
