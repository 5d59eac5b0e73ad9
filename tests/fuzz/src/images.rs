//! What comes with an image: manifests, checksums, the catalogue, a server's headers, the disk itself.
use crate::{Bytes, json_again};
use backends::fuzzing;
use backends::images::{Checksum, DiskFormat, Trust};
use protocol::units::{MemoryMib, Resources};

/// Of a bundle, and in the store.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(bundle) = fuzzing::bundle(text) {
        let files = [Some(&bundle.disk), bundle.kernel.as_ref(), bundle.initrd.as_ref()];
        for file in files.into_iter().flatten() {
            let path = std::path::Path::new("/images/x").join(file);
            assert_eq!(path.parent(), Some(std::path::Path::new("/images/x")), "{file:?} climbs out");
            assert!(file != "." && file != ".." && !file.contains('\0'));
        }
        assert!(bundle.kernel.is_some() || bundle.cmdline.is_none() && bundle.initrd.is_none());
        assert!(bundle.cmdline.as_ref().is_none_or(|line| line.is_ascii() && !line.contains(['\n', '\0'])));
        assert_eq!(fuzzing::bundle(&json_again(&bundle)), Ok(bundle));
    }
    if let Some(manifest) = fuzzing::manifest(text) {
        let again = fuzzing::manifest(&json_again(&manifest)).expect("what was read is written as it can be read");
        assert_eq!((again.digest(), &again), (manifest.digest(), &manifest));
        assert!(manifest.least_disk_gib() >= manifest.disk.virtual_size_bytes >> 30);
    }
    if let Some(memo) = fuzzing::memo(data) {
        assert_eq!(fuzzing::memo(&memo).as_ref(), Some(&memo));
    }
}

/// The first line is the file that is looked for in the rest.
pub fn checksums(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(checksum) = text.parse::<Checksum>() {
        assert_eq!(checksum.hex(), text.to_lowercase());
    }
    let Some((file, list)) = text.split_once('\n') else { return };
    let Some(found) = Checksum::find(list, file) else { return };
    let named = |line: &&str| line.contains(file) && line.to_lowercase().contains(&found.hex());
    assert!(list.lines().any(|line| named(&line)), "it stands on the file's own line");
    // What a list says twice must be the same.
    let other = Checksum::Sha256([if found == Checksum::Sha256([7; 32]) { 8 } else { 7 }; 32]);
    let twice = format!("{list}\n{}  {file}", other.hex());
    let plain = !file.starts_with(|c: char| c.is_whitespace() || c == '*') && !file.starts_with("./");
    if plain && file.trim_end() == file && !file.contains('\r') {
        assert_eq!(Checksum::find(&twice, file), None, "{file:?} in {twice:?}");
    }
}

pub fn catalogue(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match fuzzing::catalogue(text) {
        Ok(entries) => {
            for (at, entry) in entries.iter().enumerate() {
                entry.check().expect("every entry has been checked");
                assert!(matches!(entry.url.scheme(), "http" | "https"));
                let open = |url: &fuzzing::Url| url.scheme() != "https" && !is_loopback(url);
                assert!(match &entry.trust {
                    Trust::Pinned(_) => true,
                    Trust::Listed(list) => !open(list) && !open(&entry.url),
                });
                assert!(!entries[..at].iter().any(|other| (&other.name, other.arch) == (&entry.name, entry.arch)));
            }
            assert!(entries.len() <= 256);
        }
        Err(fault) => assert!(!fault.message.is_empty()),
    }
}

fn is_loopback(url: &fuzzing::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

/// `qemu-img info`.
pub fn disk_info(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok((format, size)) = fuzzing::disk_info(text) else { return };
    assert!(matches!(format, DiskFormat::Raw | DiskFormat::Qcow2) && size > 0 && size <= 2 << 40);
    let info: serde_json::Value = serde_json::from_str(text).expect("it was read");
    for key in ["backing-filename", "full-backing-filename"] {
        assert!(info[key].is_null(), "it leads to another file");
    }
    assert!(info["format-specific"]["data"]["data-file"].is_null() && info["encrypted"] != true);
}

/// The head of a file, its size, and whether a kernel of its own boots it.
pub fn raw_disk(data: &[u8]) {
    let mut input = Bytes::new(data);
    let (kernel, size) = (input.u8() & 1 == 1, input.u64());
    let head = input.rest();
    match fuzzing::raw_disk(head, size, kernel) {
        Ok(()) => {
            assert!(size >= 1 << 20 && size.is_multiple_of(512));
            assert!(kernel || head.len() >= 4, "a disk without a mark boots only from a kernel");
            assert!(!head.starts_with(b"\x7fELF") && !head.starts_with(b"\x1f\x8b"));
        }
        Err((why, hint)) => assert!(!why.is_empty() && !hint.is_empty()),
    }
    let memory = MemoryMib(size >> 20);
    let _ = Resources::new(1, memory.0, size >> 30).check();
}

/// What a server says of the file that is fetched from it.
pub fn http_headers(data: &[u8]) {
    let mut input = Bytes::new(data);
    let (from, known) = (input.u64(), input.u64());
    let Ok(lines) = std::str::from_utf8(input.rest()) else { return };
    let known = (known > 0).then_some(known);
    let (_, validator, total) = fuzzing::headers(lines, from, known);
    assert!(validator.is_none_or(|tag| !tag.starts_with("W/")), "a weak tag does not vouch for bytes");
    if let Some(total) = total {
        assert!(from > 0, "there is nothing to go on from");
        assert!(known.is_none() || total == known, "it is another file");
    }
}
