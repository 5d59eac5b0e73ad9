//! Which images can be pulled by name: those built in, and those of the home's `catalogue.toml`, which go first.
use super::checksum::Checksum;
use super::manifest::DiskFormat;
use protocol::names::{Arch, GuestUser, ImageName};
use protocol::{ErrorCode, Fault};
use reqwest::Url;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const BUILT_IN: &str = include_str!("catalogue.toml");
/// Read whole and listed whole: enough for every release of every vendor, and little enough to print.
const MAX_ENTRIES: usize = 256;
const MAX_FILE: u64 = 256 * 1024;

/// Where the digest comes from that a download must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    Pinned(Checksum),
    /// A list of checksums, read anew for each pull: as good as the connection to it.
    Listed(Url),
}

/// Where an image is found, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: ImageName,
    pub arch: Arch,
    pub url: Url,
    pub trust: Trust,
    pub default_user: GuestUser,
    /// What the disk must turn out to be. Anything that `import` takes, when it is not said.
    pub format: Option<DiskFormat>,
}

impl Entry {
    /// A list that came unprotected would vouch for nothing. A pinned digest vouches by itself, whatever the way.
    pub fn check(&self) -> Result<(), Fault> {
        let name = &self.name;
        if self.file_name().is_empty() {
            return Err(Fault::invalid(format!("{name}: {} names no file", self.url)));
        }
        if !matches!(self.url.scheme(), "http" | "https") {
            return Err(Fault::invalid(format!("{name}: {} is not an https address", self.url))
                .hint("what is on this machine already is for 'golemnode image import'"));
        }
        let listed = match &self.trust {
            Trust::Pinned(_) => return Ok(()),
            Trust::Listed(list) => list,
        };
        match [&self.url, listed].into_iter().find(|url| url.scheme() != "https" && !is_loopback(url)) {
            Some(open) => Err(Fault::invalid(format!("{name}: {open} can be forged on its way"))
                .hint("give https addresses, or pin the digest with sha256 or sha512")),
            None => Ok(()),
        }
    }
    /// What a list of checksums calls the file.
    pub(super) fn file_name(&self) -> &str {
        self.url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default()
    }
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    image: Vec<WrittenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    name: ImageName,
    arch: String,
    url: String,
    checksums: Option<String>,
    sha256: Option<String>,
    sha512: Option<String>,
    user: GuestUser,
    format: DiskFormat,
}

impl TryFrom<WrittenEntry> for Entry {
    type Error = Fault;
    fn try_from(written: WrittenEntry) -> Result<Self, Fault> {
        let entry = Entry {
            arch: written.arch.parse()?,
            url: url(&written.url)?,
            trust: trust(written.checksums.as_deref(), written.sha256.as_deref(), written.sha512.as_deref())?,
            name: written.name,
            default_user: written.user,
            format: Some(written.format),
        };
        entry.check()?;
        Ok(entry)
    }
}

pub fn url(text: &str) -> Result<Url, Fault> {
    Url::parse(text).map_err(|error| Fault::invalid(format!("'{text}' is not an address: {error}")))
}

/// Exactly one of the three, since two could contradict one another.
pub fn trust(checksums: Option<&str>, sha256: Option<&str>, sha512: Option<&str>) -> Result<Trust, Fault> {
    let pinned = |algorithm: &str, text: &str| {
        let checksum: Checksum = text.parse().map_err(|fault: Fault| named(fault, algorithm))?;
        match checksum.algorithm() == algorithm {
            true => Ok(Trust::Pinned(checksum)),
            false => Err(Fault::invalid(format!("{algorithm}: this is a {} digest", checksum.algorithm()))),
        }
    };
    match (checksums, sha256, sha512) {
        (Some(list), None, None) => Ok(Trust::Listed(url(list)?)),
        (None, Some(text), None) => pinned("sha256", text),
        (None, None, Some(text)) => pinned("sha512", text),
        _ => Err(Fault::invalid("an image to pull needs exactly one of checksums, sha256 and sha512")
            .hint("checksums is the address of the vendor's list, the others are the digest itself")),
    }
}

fn named(fault: Fault, what: &str) -> Fault {
    Fault { message: format!("{what}: {}", fault.message), ..fault }
}

#[derive(Clone, Debug)]
pub struct Catalogue(Vec<Entry>);

impl Catalogue {
    pub fn built_in() -> Self {
        Catalogue(parse(BUILT_IN).expect("the catalogue that is compiled in has been parsed by a test"))
    }

    /// With what the file adds and replaces. No file is no error.
    pub fn with_file(path: &Path) -> Result<Self, Fault> {
        let mut catalogue = Catalogue::built_in();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(catalogue),
            Err(error) => return Err(super::broken("read", path, &error)),
        };
        let mut text = String::new();
        let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
        read.map_err(|error| Fault::invalid(format!("cannot read {}: {error}", path.display())))?;
        if text.len() as u64 > MAX_FILE {
            return Err(Fault::invalid(format!("{} has more than {} KiB", path.display(), MAX_FILE >> 10)));
        }
        let entries = parse(&text).map_err(|fault| named(fault, &path.display().to_string()));
        for entry in entries? {
            catalogue.0.retain(|known| (&known.name, known.arch) != (&entry.name, entry.arch));
            catalogue.0.push(entry);
        }
        catalogue.0.sort_by(|a, b| (&a.name, a.arch).cmp(&(&b.name, b.arch)));
        Ok(catalogue)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub fn find(&self, name: &ImageName, arch: Arch) -> Result<&Entry, Fault> {
        if let Some(entry) = self.0.iter().find(|entry| entry.name == *name && entry.arch == arch) {
            return Ok(entry);
        }
        let unknown = |message: String| Fault::new(ErrorCode::NoSuchImage, message);
        if let Some(other) = self.0.iter().find(|entry| entry.name == *name) {
            return Err(unknown(format!("the catalogue has no '{name}' for {arch}"))
                .hint(format!("it has one for {}; others can be added in catalogue.toml", other.arch)));
        }
        Err(unknown(format!("the catalogue has no image '{name}'")).hint(self.nearest(name.as_str())))
    }

    fn nearest(&self, name: &str) -> String {
        let alike = |known: &&ImageName| known.as_str().chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        let names = self.0.iter().map(|entry| &entry.name);
        // Among equals the newest.
        match names.max_by_key(|known| (alike(known), *known)).filter(|known| alike(known) >= 3) {
            Some(known) => format!("did you mean '{known}'? 'golemnode image list --catalogue' shows all"),
            None => "'golemnode image list --catalogue' shows what there is; --url takes any other".to_owned(),
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, Fault> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Fault::invalid(format!("line {line}: {}", error.message()))
            .hint("docs/images.md has the form of a catalogue.toml")
    })?;
    if written.image.len() > MAX_ENTRIES {
        return Err(Fault::invalid(format!("more than {MAX_ENTRIES} images")));
    }
    let mut entries: Vec<Entry> = Vec::new();
    for one in written.image {
        let shown = one.name.to_string();
        let entry = Entry::try_from(one).map_err(|fault| named(fault, &format!("image '{shown}'")))?;
        if entries.iter().any(|known| known.name == entry.name && known.arch == entry.arch) {
            return Err(Fault::invalid(format!("image '{shown}' is there twice for {}", entry.arch)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINNED: &str = "[[image]]\nname = \"debian:12\"\narch = \"amd64\"\nurl = \"http://10.0.0.1/d.raw\"\n\
                          user = \"me\"\nformat = \"raw\"\n";

    #[test]
    fn what_is_built_in_comes_over_https_for_both_architectures() {
        let catalogue = Catalogue::built_in();
        for name in ["ubuntu:24.04", "ubuntu:22.04", "debian:12", "debian:13"] {
            for (arch, part) in [(Arch::X86_64, "amd64"), (Arch::Aarch64, "arm64")] {
                let entry = catalogue.find(&name.parse().unwrap(), arch).unwrap();
                let Trust::Listed(list) = &entry.trust else { panic!("{name} is pinned") };
                assert_eq!((entry.url.scheme(), list.scheme()), ("https", "https"));
                assert!(entry.file_name().contains(part), "{}", entry.url);
                assert_eq!(entry.url.join("./").unwrap(), list.join("./").unwrap(), "the list stands beside the file");
                assert_eq!(entry.default_user.as_str(), name.split(':').next().unwrap());
            }
        }
        assert_eq!(catalogue.entries().len(), 8);
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one() {
        let catalogue = Catalogue::built_in();
        let find = |name: &str| catalogue.find(&name.parse().unwrap(), Arch::X86_64).unwrap_err();
        assert_eq!(find("ubuntu:24.4").code, ErrorCode::NoSuchImage);
        assert!(find("ubuntu:24.4").hint.unwrap().contains("did you mean 'ubuntu:24.04'?"));
        assert!(find("ubuntu").hint.unwrap().contains("did you mean 'ubuntu:24.04'?"), "the newest");
        assert!(find("plan9").hint.unwrap().contains("image list --catalogue"));
    }

    #[test]
    fn a_file_adds_and_replaces_and_its_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue.toml");
        let read = |text: String| {
            std::fs::write(&path, text).unwrap();
            Catalogue::with_file(&path)
        };
        let pin = format!("sha512 = \"{}\"\n", "ab".repeat(64));
        let catalogue = read(format!("{PINNED}{pin}")).unwrap();
        assert_eq!(catalogue.entries().len(), 8);
        let entry = catalogue.find(&"debian:12".parse().unwrap(), Arch::X86_64).unwrap();
        assert_eq!((entry.url.as_str(), entry.default_user.as_str()), ("http://10.0.0.1/d.raw", "me"));
        assert_eq!(read(format!("{PINNED}{pin}").replace(":12", ":99")).unwrap().entries().len(), 9);
        assert_eq!(Catalogue::with_file(&dir.path().join("none")).unwrap().entries().len(), 8);
        for (text, why) in [
            (format!("{PINNED}{pin}colour = 1\n"), "line 8: unknown field `colour`"),
            (PINNED.to_owned(), "exactly one of"),
            (format!("{PINNED}{pin}checksums = \"https://x/y\"\n"), "exactly one of"),
            (format!("{PINNED}checksums = \"https://x/y\"\n"), "can be forged"),
            (format!("{PINNED}sha256 = \"12\"\n"), "not a checksum"),
            (format!("{PINNED}sha256 = \"{}\"\n", "ab".repeat(64)), "sha512 digest"),
            (format!("{PINNED}{pin}{PINNED}{pin}"), "twice"),
            (format!("{PINNED}{pin}").replace("http:", "file:"), "not an https address"),
            (format!("{PINNED}{pin}").replace("/d.raw", "/"), "names no file"),
            (format!("{PINNED}{pin}").replace("amd64", "mips"), "not an architecture"),
            (format!("{PINNED}{pin}").replace("raw\"\n", "vmdk\"\n"), "unknown variant"),
            ("[image".to_owned(), "line 1: "),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.code == ErrorCode::InvalidRequest && fault.message.contains(why), "{why}: {fault}");
            assert!(fault.message.starts_with(&path.display().to_string()), "{fault}");
        }
    }
}
