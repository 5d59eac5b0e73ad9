//! `image pull`: an image by its catalogue entry, fetched, verified and taken in.
use super::catalogue::{Entry, Trust};
use super::checksum::{Checksum, not_listed};
use super::download::{Events, Fetcher, PullEvent, PullSettings, blocking};
use super::manifest::{Bundle, Manifest};
use super::part::Part;
use super::{ImageStore, MANIFEST, copy};
use protocol::names::ImageName;
use protocol::{ErrorCode, Fault};
use sha2::Digest as _;
use std::fs::File;

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub manifest: Manifest,
    pub checksum: Checksum,
    /// Over the network, this time.
    pub downloaded: u64,
    /// It was here before, and is what the vendor has.
    pub already: bool,
}

impl ImageStore {
    /// Brings the entry's image here, as `name`. It may be dropped at any await: what came is kept, and the next pull
    /// of the same goes on behind it.
    pub async fn pull(
        &self,
        entry: &Entry,
        name: &ImageName,
        settings: &PullSettings,
        events: Events<'_>,
    ) -> Result<Pulled, Fault> {
        entry.check()?;
        let fetcher = Fetcher::new(&entry.url, settings)?;
        let expected = match &entry.trust {
            Trust::Pinned(checksum) => *checksum,
            Trust::Listed(list) => {
                let text = fetcher.text(list, events).await?;
                Checksum::find(&text, entry.file_name()).ok_or_else(|| not_listed(list.as_str(), entry.file_name()))?
            }
        };
        if self.path(name, MANIFEST).exists() {
            events(PullEvent::Checking);
            let manifest = self.same(name, entry, expected).await?;
            return Ok(Pulled { manifest, checksum: expected, downloaded: 0, already: true });
        }
        let (dir, wanted, url) = (self.dir.clone(), name.clone(), entry.url.to_string());
        let part = blocking(move || Part::open(&dir, &wanted, &url, expected)).await?;
        let from = part.len;
        if from > 0 {
            events(PullEvent::Resuming { from });
        }
        let (mut downloaded, mut here) = (0, from);
        let mut counted = |event: PullEvent| {
            if let PullEvent::Progress { done, .. } = event {
                // Where it began anew, less is here than before.
                downloaded += done.saturating_sub(here);
                here = done;
            }
            events(event);
        };
        let part = fetcher.file(&entry.url, part, &mut counted).await?;
        events(PullEvent::Checking);
        let (store, bundle, format) = (self.clone(), bundle(entry, name), entry.format);
        let manifest = blocking(move || {
            let whole = part.finish()?;
            let taken_in = store.adopt(&whole, bundle, format);
            // What cannot be used is not worth keeping; what could not be written may be taken in next time.
            if taken_in.as_ref().map_or_else(|fault| fault.code == ErrorCode::InvalidRequest, |_| true) {
                part.discard();
            }
            taken_in
        });
        Ok(Pulled { manifest: manifest.await?, checksum: expected, downloaded, already: false })
    }

    /// The image that has this name, when it is the one that would be pulled.
    async fn same(&self, name: &ImageName, entry: &Entry, expected: Checksum) -> Result<Manifest, Fault> {
        let manifest = self.get(name)?;
        let path = self.path(name, &manifest.disk.file);
        let found = match expected {
            Checksum::Sha256(_) => Checksum::Sha256(manifest.disk.sha256.0),
            Checksum::Sha512(_) => blocking(move || sha512(&path)).await?,
        };
        if found == expected && manifest.arch == entry.arch {
            return Ok(manifest);
        }
        let message = format!("there is another image '{name}' here than the one at {}", entry.url);
        Err(Fault::new(ErrorCode::VmExists, message)
            .hint(format!("keep it, 'golemnode image remove {name}' first, or give this one another --name")))
    }
}

fn sha512(path: &std::path::Path) -> Result<Checksum, Fault> {
    struct Hash(sha2::Sha512);
    impl std::io::Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut file = File::open(path).map_err(|error| super::broken("read", path, &error))?;
    let mut hash = Hash(sha2::Sha512::new());
    copy(&mut file, &mut hash, u64::MAX, path, &mut |_| {})?;
    Ok(Checksum::Sha512(hash.0.finalize().into()))
}

fn bundle(entry: &Entry, name: &ImageName) -> Bundle {
    Bundle {
        name: name.clone(),
        arch: entry.arch,
        disk: "disk".to_owned(),
        kernel: None,
        initrd: None,
        cmdline: None,
        default_user: entry.default_user.clone(),
        features: Vec::new(),
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
