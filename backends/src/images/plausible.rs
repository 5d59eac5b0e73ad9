//! qemu-img takes any file at all for a raw disk, so what looks like none is told apart here, with the reason.
use protocol::Fault;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// No system fits on less.
const LEAST: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Far enough for every mark below.
const HEAD: usize = 0x11000;

/// What a disk begins with when it has a boot loader, a partition table or a file system.
const DISKS: [(usize, &[u8]); 11] = [
    (510, &[0x55, 0xAA]),
    (512, b"EFI PART"),
    (0x438, &[0x53, 0xEF]),
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),
    (0, b"hsqs"),
    (0x8001, b"CD001"),
    (1024, &[0xE2, 0xE1, 0xF5, 0xE0]),
    (1024, &[0x10, 0x20, 0xF5, 0xF2]),
    (0, b"LUKS\xba\xbe"),
    (0x218, b"LABELONE"),
];

/// What people mistake for a disk, and the way from it to one.
const OTHERS: [(usize, &[u8], &str, &str); 7] = [
    (0, b"\xfd7zXZ\0", "compressed with xz", "unxz it first"),
    (0, b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd it first"),
    (0, b"BZh", "compressed with bzip2", "bunzip2 it first"),
    (0, b"PK\x03\x04", "a zip archive", "unzip it first"),
    (257, b"ustar", "a tar archive", "unpack it first: a disk or a bundle's folder may be in it"),
    (0, b"\x7fELF", "a program", "give a raw or qcow2 disk"),
];

/// Of a file that is not qcow2. One that is booted by a kernel of its own needs no mark: its file system may be of a
/// kind that is not known here.
pub(super) fn check_raw(disk: &Path, shown: &Path, kernel: bool) -> Result<(), Fault> {
    let read = |error: std::io::Error| super::broken("read", disk, &error);
    let file = File::open(disk).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut head = vec![0; HEAD.min(size as usize)];
    file.read_exact_at(&mut head, 0).map_err(read)?;
    judge(&head, size, kernel).map_err(|(why, hint)| {
        let shown = shown.file_name().unwrap_or(shown.as_os_str()).to_string_lossy();
        Fault::invalid(format!("'{shown}' is no disk image: it {why}")).hint(hint)
    })
}

pub(crate) fn judge(head: &[u8], size: u64, kernel: bool) -> Result<(), (String, String)> {
    let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
    let whole = || "give a raw or qcow2 disk; if it is one, its end is missing: fetch it again".to_owned();
    if let Some((_, _, what, hint)) = OTHERS.iter().find(|(at, mark, _, _)| has(*at, mark)) {
        return Err((format!("is {what}"), (*hint).to_owned()));
    }
    if size < LEAST {
        return Err((format!("has {size} bytes, and a raw disk has at least {LEAST}"), whole()));
    }
    if !size.is_multiple_of(SECTOR) {
        return Err((format!("has {size} bytes, and a raw disk is a multiple of {SECTOR}"), whole()));
    }
    if !kernel && !DISKS.iter().any(|(at, mark)| has(*at, mark)) {
        let hint = "give a raw or qcow2 disk that boots, or name the kernel to boot it with (--kernel)";
        return Err(("has no boot sector, no partition table and no known file system".to_owned(), hint.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(at: usize, mark: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[at..at + mark.len()].copy_from_slice(mark);
        head
    }

    #[test]
    fn a_raw_disk_has_a_size_and_a_mark() {
        for (at, mark) in DISKS {
            assert_eq!(judge(&with(at, mark), LEAST, false), Ok(()), "{at} {mark:?}");
        }
        let blank = vec![0; HEAD];
        assert_eq!(judge(&blank, LEAST, true), Ok(()), "a kernel boots what it knows");
        for (head, size, kernel, why) in [
            (b"myhost\n".to_vec(), 7, false, "has 7 bytes"),
            (b"myhost\n".to_vec(), 7, true, "has 7 bytes"),
            (with(510, &[0x55, 0xAA]), LEAST + 1, false, "multiple of 512"),
            (blank, LEAST, false, "no boot sector"),
            (with(0, b"\xfd7zXZ\0"), LEAST, true, "xz"),
            (b"\x1f\x8b\x08".to_vec(), 3, false, "gzip"),
            (with(257, b"ustar"), LEAST, false, "tar archive"),
        ] {
            let (said, _) = judge(&head, size, kernel).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
