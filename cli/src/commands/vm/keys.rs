//! `--ssh-key` and `--cloud-init`: what a tenant brings along.
use crate::commands::key;
use node::api::types::TenantKey;
use node::config::Home;
use protocol::Fault;
use protocol::seed::MAX_SEED;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// An RSA key of 16384 bits has 13 KiB.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// A file of either half, or the name of a pair made by `key generate`.
pub fn tenant_key(home: &Home, wanted: &str) -> Result<TenantKey, Fault> {
    let path = PathBuf::from(wanted);
    if path.is_file() {
        return of_file(&path);
    }
    if let Some(path) = key::find(home, wanted) {
        return of_file(&path);
    }
    Err(Fault::invalid(format!("no key file and no key named '{wanted}'"))
        .hint("give a key file such as ~/.ssh/id_ed25519.pub, or make a pair with 'golemnode key generate NAME'"))
}

fn of_file(path: &Path) -> Result<TenantKey, Fault> {
    let text = read(path, MAX_KEY_FILE)?;
    if text.starts_with("-----BEGIN ") {
        return Ok(TenantKey { public: public_beside(path, &text)?, identity_file: Some(absolute(path)) });
    }
    // Without the private half beside it, an agent has it.
    let private = path.extension().is_some_and(|end| end == "pub").then(|| path.with_extension(""));
    let identity_file = private.filter(|private| private.is_file()).map(|private| absolute(&private));
    Ok(TenantKey { public: public_line(path, &text)?, identity_file })
}

/// The public half of a private file: its `.pub`, or what the file itself tells when it has no passphrase.
fn public_beside(private: &Path, text: &str) -> Result<String, Fault> {
    let mut beside = private.as_os_str().to_owned();
    beside.push(".pub");
    let beside = PathBuf::from(beside);
    if beside.is_file() {
        return public_line(&beside, &read(&beside, MAX_KEY_FILE)?);
    }
    node::ssh::public_line(text).map_err(|_| {
        Fault::invalid(format!("{} has no public half beside it", private.display())).hint(format!(
            "ssh-keygen -y -f {} > {}",
            private.display(),
            beside.display()
        ))
    })
}

fn public_line(path: &Path, text: &str) -> Result<String, Fault> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next().filter(|_| lines.next().is_none());
    let is_key = |line: &&str| {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start)) && words.next().is_some()
    };
    line.filter(is_key).map(str::to_owned).ok_or_else(|| {
        Fault::invalid(format!("{} is not one OpenSSH key", path.display()))
            .hint("give the .pub file that ssh-keygen wrote, or the private one beside it")
    })
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

pub fn user_data(file: &Path) -> Result<String, Fault> {
    if file.as_os_str() == "-" {
        return bounded(std::io::stdin(), file, MAX_SEED as u64);
    }
    read(file, MAX_SEED as u64)
}

fn read(path: &Path, most: u64) -> Result<String, Fault> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    bounded(file, path, most)
}

fn bounded(source: impl Read, shown: &Path, most: u64) -> Result<String, Fault> {
    let mut text = String::new();
    source.take(most + 1).read_to_string(&mut text).map_err(|error| unreadable(shown, &error))?;
    if text.len() as u64 > most {
        return Err(Fault::invalid(format!("{} has more than {} KiB", shown.display(), most / 1024)));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::invalid(format!("cannot read {}: {error}", path.display())).hint("name a file that you can read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_half_of_a_key_serves_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(dir.path().join("home"))).unwrap();
        let (private, public) = node::ssh::generate("me").unwrap();
        let path = dir.path().join("id");
        std::fs::write(&path, private).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let alone = tenant_key(&home, &text(&path)).unwrap();
        assert_eq!(alone.public.split(' ').nth(1), public.split(' ').nth(1));
        let beside = dir.path().join("id.pub");
        std::fs::write(&beside, &public).unwrap();
        for half in [&path, &beside] {
            let key = tenant_key(&home, &text(half)).unwrap();
            assert_eq!((key.public.as_str(), key.identity_file), (public.as_str(), Some(text(&path))));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tenant_key(&home, &text(&beside)).unwrap().identity_file, None);
        std::fs::write(&beside, "hello").unwrap();
        for bad in [text(&beside), "absent".into(), text(dir.path())] {
            assert!(tenant_key(&home, &bad).unwrap_err().hint.is_some(), "{bad}");
        }
    }
}
