//! The keys with which a tenant reaches its guests. The guest's host key is made here and sent with the seed, so the
//! first contact is already pinned: no prompt, no trust on first use. OpenSSH is the client.
//!
//! `ssh/<vm>/` holds `id_ed25519` (unless the tenant brought a key), `id_ed25519.pub` and `known_hosts`.
use crate::api::types::{TenantKey, VmSsh};
use crate::config::{self, Home, io};
use protocol::Fault;
use protocol::names::{GuestUser, VmName};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{LineEnding, PrivateKey};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct SshDir {
    home: PathBuf,
    dir: PathBuf,
}

/// What a new VM's seed needs.
pub struct Prepared {
    pub authorized_key: String,
    pub host_private: String,
    pub identity_file: Option<String>,
}

impl SshDir {
    pub fn new(home: &Home) -> Self {
        SshDir { home: home.root().to_owned(), dir: home.ssh().join("vms") }
    }
    fn of(&self, name: &VmName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Makes the keys of a new VM and pins its host key.
    pub fn prepare(&self, name: &VmName, brought: Option<&TenantKey>) -> Result<Prepared, Fault> {
        let dir = self.of(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|error| io("replace", &dir, &error))?;
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| io("create", &dir, &error))?;
        let host = new_key(&alias(name))?;
        let pinned = format!("{} {}\n", alias(name), public_of(&host)?);
        write(&dir.join("known_hosts"), &pinned)?;
        let (authorized_key, identity_file) = match brought {
            Some(key) => (key.public.clone(), key.identity_file.clone()),
            None => {
                let own = new_key(&format!("golemnode {name}"))?;
                let path = dir.join("id_ed25519");
                write(&path, &private_text(&own)?)?;
                let public = public_of(&own)?;
                write(&dir.join("id_ed25519.pub"), &format!("{public}\n"))?;
                (public, Some(path.to_string_lossy().into_owned()))
            }
        };
        Ok(Prepared { authorized_key, host_private: private_text(&host)?, identity_file })
    }

    /// The keys of a VM under another name, beside those under its own. The key that this node made is a new file then.
    pub fn copy(&self, name: &VmName, new: &VmName, identity_file: Option<&str>) -> Result<Option<String>, Fault> {
        let (from, to) = (self.of(name), self.of(new));
        if from == to {
            return Ok(identity_file.map(str::to_owned));
        }
        if to.exists() {
            fs::remove_dir_all(&to).map_err(|error| io("replace", &to, &error))?;
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&to);
        made.map_err(|error| io("create", &to, &error))?;
        for file in fs::read_dir(&from).map_err(|error| io("read", &from, &error))?.flatten() {
            let text = fs::read_to_string(file.path()).map_err(|error| io("read", &file.path(), &error))?;
            let pinned = file.file_name() == "known_hosts";
            let text = if pinned { text.replacen(&alias(name), &alias(new), 1) } else { text };
            write(&to.join(file.file_name()), &text)?;
        }
        let own = |path: &str| Path::new(path).strip_prefix(&from).map(|file| to.join(file)).ok();
        Ok(identity_file.map(|path| own(path).map_or(path.to_owned(), |new| new.to_string_lossy().into_owned())))
    }

    /// Removes the keys of VMs that are no more.
    pub fn keep_only(&self, kept: &[VmName]) -> Result<(), Fault> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io("read", &self.dir, &error)),
        };
        for entry in entries.flatten() {
            if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_dir_all(entry.path()).map_err(|error| io("remove", &entry.path(), &error))?;
            }
        }
        Ok(())
    }

    pub fn view(&self, name: &VmName, user: &GuestUser, identity_file: Option<&str>) -> VmSsh {
        VmSsh {
            user: user.to_string(),
            host_alias: alias(name),
            identity_file: identity_file.map(str::to_owned),
            known_hosts_file: self.of(name).join("known_hosts").to_string_lossy().into_owned(),
        }
    }

    /// The options under which OpenSSH reaches this VM: the same for `vm ssh` and `vm ssh-config`.
    pub fn options(&self, golemnode: &Path, name: &VmName, ssh: &VmSsh) -> Vec<(&'static str, String)> {
        let proxy = format!(
            "{} --home {} vm proxy {name} %p",
            shell_word(&golemnode.to_string_lossy()),
            shell_word(&self.home.to_string_lossy())
        );
        let mut options = vec![
            ("ProxyCommand", proxy),
            ("HostName", ssh.host_alias.clone()),
            ("HostKeyAlias", ssh.host_alias.clone()),
            ("User", ssh.user.clone()),
            ("StrictHostKeyChecking", "yes".into()),
            ("UserKnownHostsFile", file_word(&ssh.known_hosts_file)),
            ("GlobalKnownHostsFile", "/dev/null".into()),
            ("HostKeyAlgorithms", "ssh-ed25519".into()),
            ("CheckHostIP", "no".into()),
            // The host key is pinned by us; OpenSSH must not rewrite its file.
            ("UpdateHostKeys", "no".into()),
            // Compression and the guest's cipher cost more than the path when the guest is emulated.
            ("Compression", "no".into()),
            // A guest has no password: asking for one would only hang a script.
            ("PreferredAuthentications", "publickey".into()),
            ("ConnectTimeout", "30".into()),
            ("ServerAliveInterval", "30".into()),
            ("LogLevel", "ERROR".into()),
        ];
        if let Some(identity) = &ssh.identity_file {
            options.push(("IdentityFile", file_word(identity)));
            options.push(("IdentitiesOnly", "yes".into()));
        }
        options
    }

    /// A `Host` block for `~/.ssh/config`, under the VM's own name.
    pub fn config_block(&self, golemnode: &Path, name: &VmName, ssh: &VmSsh) -> String {
        let mut block = format!("Host {name} {}\n", ssh.host_alias);
        for (key, value) in self.options(golemnode, name, ssh) {
            block.push_str(&format!("  {key} {value}\n"));
        }
        block
    }
}

/// The name under which a VM's host key is pinned: not the VM's own, which a user may also have as a real host.
pub fn alias(name: &VmName) -> String {
    format!("golemnode-{name}")
}

fn new_key(comment: &str) -> Result<PrivateKey, Fault> {
    let secret = config::random_32()?;
    let public = *protocol::Keypair::from_secret(&secret).peer_id().public_key();
    let pair = Ed25519Keypair { public: Ed25519PublicKey(public), private: Ed25519PrivateKey::from_bytes(&secret) };
    PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(|error| unusable(&error))
}

/// A fresh pair in OpenSSH's format: the private file's text and the public line.
pub fn generate(comment: &str) -> Result<(String, String), Fault> {
    let key = new_key(comment)?;
    Ok((private_text(&key)?, public_of(&key)?))
}

fn private_text(key: &PrivateKey) -> Result<String, Fault> {
    Ok(key.to_openssh(LineEnding::LF).map_err(|error| unusable(&error))?.to_string())
}

fn public_of(key: &PrivateKey) -> Result<String, Fault> {
    key.public_key().to_openssh().map_err(|error| unusable(&error))
}

/// The public line of a private key in OpenSSH's format.
pub fn public_line(private: &str) -> Result<String, Fault> {
    let key = PrivateKey::from_openssh(private).map_err(|error| unusable(&error))?;
    public_of(&key)
}

/// Of a public line, as ssh-keygen prints it.
pub fn fingerprint(public: &str) -> Option<String> {
    ssh_key::PublicKey::from_openssh(public).ok().map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
}

fn unusable(error: &ssh_key::Error) -> Fault {
    Fault::invalid(format!("an SSH key cannot be used: {error}"))
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| io("write", path, &error))
}

/// A word of the shell that runs a `ProxyCommand`; percent signs are OpenSSH's own.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    let text = text.replace('%', "%%");
    if text.chars().all(|c| plain(c) || c == '%') { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A file name in OpenSSH's configuration: percent signs doubled, and quoted where a word would end or a comment begin.
fn file_word(text: &str) -> String {
    let text = text.replace('%', "%%");
    if !text.contains(|c: char| c.is_whitespace() || "\"'\\#".contains(c)) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_pinned_and_removed_with_their_vm() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(dir.path().to_owned())).unwrap();
        let ssh = SshDir::new(&home);
        let name: VmName = "web".parse().unwrap();
        let prepared = ssh.prepare(&name, None).unwrap();
        let public = public_line(&prepared.host_private).unwrap();
        let pinned = fs::read_to_string(ssh.of(&name).join("known_hosts")).unwrap();
        assert_eq!(pinned.trim(), format!("golemnode-web {public}"));
        assert!(prepared.authorized_key.starts_with("ssh-ed25519 "));
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(prepared.identity_file.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ssh.keep_only(&[]).unwrap();
        assert!(!ssh.of(&name).exists());
    }

    /// OpenSSH itself reads the block and runs the proxy: every place that a home's name passes, it passes whole.
    #[test]
    #[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn openssh_reads_the_block_whatever_the_home_is_called() {
        use std::os::unix::fs::PermissionsExt;
        use std::process::{Command, Stdio};
        if Command::new("ssh").arg("-V").output().is_err() {
            return eprintln!("SKIPPED: no ssh here");
        }
        let dir = tempfile::tempdir().unwrap();
        for folder in ["plain", "a b", "50%h", "it's", "say \"hi\"", "#1", r"back\slash", "$HOME"] {
            let home = Home::find(Some(dir.path().join(folder))).unwrap();
            home.create().unwrap();
            let (ssh, name) = (SshDir::new(&home), "web".parse().unwrap());
            let prepared = ssh.prepare(&name, None).unwrap();
            let view = ssh.view(&name, &"root".parse().unwrap(), prepared.identity_file.as_deref());
            // In place of golemnode: it notes what it was called with, and says nothing to ssh.
            let (own, noted) = (home.root().join("golem node"), home.root().join("noted"));
            fs::write(&own, "#!/bin/sh\nfor word in \"$@\"; do echo \"$word\"; done > \"$2/noted\"\n").unwrap();
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
            let config = home.root().join("config");
            fs::write(&config, ssh.config_block(&own, &name, &view)).unwrap();

            let run = |args: &[&str]| {
                Command::new("ssh").arg("-F").arg(&config).args(args).stdin(Stdio::null()).output().unwrap()
            };
            let read = String::from_utf8(run(&["-G", "web"]).stdout).unwrap();
            let has = |line: String| assert!(read.lines().any(|said| said == line), "{folder}: no '{line}' in {read}");
            has("user root".into());
            has("hostkeyalias golemnode-web".into());
            has("stricthostkeychecking true".into());
            has("identitiesonly yes".into());
            has("hostkeyalgorithms ssh-ed25519".into());

            assert_eq!(run(&["-p", "2022", "web", "true"]).status.code(), Some(255));
            let noted = fs::read_to_string(&noted).unwrap_or_else(|error| panic!("{folder}: {error}"));
            let expected = ["--home", home.root().to_str().unwrap(), "vm", "proxy", "web", "2022"];
            assert_eq!(noted.lines().collect::<Vec<_>>(), expected, "{folder}");
            // Files are opened after their tokens are expanded: what ssh then looks for is said with -v.
            let said = run(&["-v", "-o", "LogLevel=DEBUG1", "web", "true"]);
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            // "3" is its type: it was found and could be read. The path before it is shown escaped.
            assert!(said.contains("/ssh/vms/web/id_ed25519 type 3"), "{folder}: {said}");
        }
    }
}
