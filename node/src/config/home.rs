//! Where everything of one node lives, its identity, and the lock that keeps a second node away.
use super::{io, random_32};
use protocol::revocation::RevocationDocument;
use protocol::{ErrorCode, Fault, Keypair};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// libvirt puts sockets about 60 characters below the home, and a Unix socket's path ends at 107.
pub const LONGEST_HOME: usize = 45;
/// Bytes read of a file that should be a revocation; one has about 500.
const MAX_REVOCATION_FILE: u64 = 4096;

/// Where everything of one node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// `--home`, `GOLEMNODE_HOME`, `/var/lib/golemnode` for root (QEMU's own user cannot enter /root), `~/.golem/node`.
    pub fn find(flag: Option<PathBuf>) -> Result<Self, Fault> {
        let named = flag.or_else(|| std::env::var_os("GOLEMNODE_HOME").map(PathBuf::from));
        let root = match named.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => path,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/golemnode"),
            None => std::env::home_dir()
                .ok_or_else(|| Fault::invalid("this user has no home directory").hint("name one with --home"))?
                .join(".golem/node"),
        };
        let root = std::path::absolute(&root).map_err(|error| io("use", &root, &error))?;
        Ok(Home(root))
    }
    /// Makes what is missing; only its owner reads the parts that hold secrets.
    pub fn create(&self) -> Result<(), Fault> {
        if !self.0.exists() {
            fs::create_dir_all(&self.0).map_err(|error| io("create", &self.0, &error))?;
        }
        for (dir, mode) in [(self.images(), 0o755), (self.vms(), 0o711), (self.ssh(), 0o700), (self.db(), 0o700)] {
            if !dir.exists() {
                let made = fs::DirBuilder::new().mode(mode).create(&dir);
                made.or_else(|error| if dir.is_dir() { Ok(()) } else { Err(io("create", &dir, &error)) })?;
            }
        }
        Ok(())
    }
    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }
    pub fn identity_file(&self) -> PathBuf {
        self.0.join("identity")
    }
    /// Signed with the identity's first breath; its owner should keep a copy elsewhere.
    pub fn revocation_file(&self) -> PathBuf {
        self.0.join("identity.revocation")
    }
    /// The same, with who goes on.
    pub fn succession_file(&self) -> PathBuf {
        self.0.join("identity.succession")
    }
    pub fn db(&self) -> PathBuf {
        self.0.join("db")
    }
    /// A restored store while it is made.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("db.restoring")
    }
    /// A restored store that the next start takes up.
    pub fn restored(&self) -> PathBuf {
        self.0.join("db.restored")
    }
    /// What the last restore replaced.
    pub fn before_restore(&self) -> PathBuf {
        self.0.join("db.before-restore")
    }
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }
    pub fn vms(&self) -> PathBuf {
        self.0.join("vms")
    }
    pub fn ssh(&self) -> PathBuf {
        self.0.join("ssh")
    }
    pub fn socket(&self) -> PathBuf {
        self.0.join("api.sock")
    }
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }
    /// The time at which a node last ran here.
    pub fn clock(&self) -> PathBuf {
        self.0.join("clock")
    }
    pub fn start_lock(&self) -> PathBuf {
        self.0.join("start.lock")
    }

    /// The node's key, made at the first use. A file that cannot be a key is never overwritten.
    pub fn identity(&self) -> Result<Keypair, Fault> {
        let path = self.identity_file();
        match OpenOptions::new().read(true).open(&path) {
            Ok(file) => read_identity(&path, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.make_identity(&path),
            Err(error) => Err(io("read", &path, &error)),
        }
    }

    /// Written beside and linked into place, so that two commands at once agree on one key and neither reads half.
    fn make_identity(&self, path: &Path) -> Result<Keypair, Fault> {
        let secret = random_32()?;
        let fresh = self.0.join(format!("identity.{}", std::process::id()));
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).and_then(|mut file| {
                file.write_all(hex::encode(secret).as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            });
        written.map_err(|error| io("write", &fresh, &error))?;
        let linked = fs::hard_link(&fresh, path);
        fs::remove_file(&fresh).map_err(|error| io("remove", &fresh, &error))?;
        match linked {
            Ok(()) => {
                let key = Keypair::from_secret(&secret);
                self.write_revocation(&key)?;
                Ok(key)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => self.identity(),
            Err(error) => Err(io("write", path, &error)),
        }
    }
}

impl Home {
    /// While the key is there it could be signed at any time; the file is for when it is not, or is somebody else's too.
    fn write_revocation(&self, key: &Keypair) -> Result<(), Fault> {
        let path = self.revocation_file();
        // An earlier key's is still the only word against whoever has that one.
        let earlier = self.revocation(Some(&path)).and_then(|document| document.verify());
        if let Ok(earlier) =
            earlier.map(|it| it.revoked).map(|peer| path.with_extension(format!("revocation.{}", peer.short())))
        {
            fs::rename(&path, &earlier).map_err(|error| io("keep", &earlier, &error))?;
        }
        write_document(&path, &RevocationDocument::of(key), OpenOptions::new().create(true).truncate(true))
    }

    /// That the key of the home `successor` goes on for this one's, for the day when it is said. A file that is there
    /// already is left as it is: it may be the only word against a key that is lost.
    pub fn hand_over(&self, successor: &Home, path: &Path) -> Result<RevocationDocument, Fault> {
        let (key, heir) = (self.identity()?, successor.identity()?);
        if key.peer_id() == heir.peer_id() {
            return Err(Fault::invalid("a key does not succeed itself").hint("name the home of another node"));
        }
        if path.exists() {
            return Err(Fault::invalid(format!("{} is there already", path.display()))
                .hint("--file names another place for the new one"));
        }
        let document = RevocationDocument::in_favour_of(&heir, &key);
        write_document(path, &document, OpenOptions::new().create_new(true))?;
        Ok(document)
    }

    /// What ends a key: from this file, or from the home's own, or signed now by the home's key.
    pub fn revocation(&self, file: Option<&Path>) -> Result<RevocationDocument, Fault> {
        let own = self.revocation_file();
        let path = file.unwrap_or(&own);
        match File::open(path) {
            Ok(file) => read_revocation(path, file),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound || file.is_some() => {
                Err(io("read", path, &error))
            }
            Err(_) if self.identity_file().exists() => Ok(RevocationDocument::of(&self.identity()?)),
            Err(_) => Err(Fault::new(ErrorCode::NoSuchResource, format!("{} has no identity", self.0.display()))
                .hint("--file names the revocation that was made with the key")),
        }
    }
}

fn write_document(path: &Path, document: &RevocationDocument, how: &mut OpenOptions) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Fault::internal(format!("a revocation cannot be written: {error}")))?;
    let written = how.write(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(|error| io("write", path, &error))
}

fn read_revocation(path: &Path, mut file: File) -> Result<RevocationDocument, Fault> {
    let mut text = String::new();
    let read = Read::by_ref(&mut file).take(MAX_REVOCATION_FILE).read_to_string(&mut text);
    read.map_err(|error| io("read", path, &error))?;
    serde_json::from_str(&text).map_err(|_| {
        Fault::invalid(format!("{} is not a revocation", path.display()))
            .hint("it is the file 'identity.revocation' that was made with the identity")
    })
}

fn read_identity(path: &Path, mut file: File) -> Result<Keypair, Fault> {
    let mode = file.metadata().map_err(|error| io("read", path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Fault::invalid(format!("{} is readable by others", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    let mut secret = [0; 32];
    let read = Read::by_ref(&mut file).take(256).read_to_string(&mut text);
    if read.is_err() || hex::decode_to_slice(text.trim(), &mut secret).is_err() {
        return Err(Fault::invalid(format!("{} is not a golemnode identity", path.display()))
            .hint("restore it from a backup; removing it makes a new node that owns none of the old one's VMs"));
    }
    Ok(Keypair::from_secret(&secret))
}

/// One node per home. The file names who holds it; the lock itself is the operating system's, and ends with the process.
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    pub fn take(home: &Home) -> Result<Self, Fault> {
        let path = home.root().join("node.lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(|error| io("lock", &path, &error))?;
        if file.try_lock().is_err() {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(16).read_to_string(&mut pid);
            return Err(Fault::new(
                ErrorCode::Unavailable,
                format!("a node runs on {} already (process {})", home.root().display(), pid.trim()),
            )
            .hint("'golemnode node stop' ends it; --home names another home"));
        }
        let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        written.map_err(|error| io("lock", &path, &error))?;
        Ok(NodeLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_read_from_where_it_is_or_signed_by_the_key_that_is_there() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (home, other) = (Home(dir.path().to_owned()), Home(elsewhere.path().to_owned()));
        assert_eq!(home.revocation(None).unwrap_err().code, ErrorCode::NoSuchResource);
        assert!(!home.identity_file().exists(), "no key is made only to be revoked");
        let id = home.identity().unwrap().peer_id();
        let copy = home.revocation_file();
        assert_eq!(other.revocation(Some(&copy)).unwrap().verify().unwrap().revoked, id);
        fs::remove_file(&copy).unwrap();
        assert_eq!(home.identity().unwrap().peer_id(), id);
        assert!(!copy.exists(), "who has moved it away has done so on purpose");
        assert_eq!(home.revocation(None).unwrap().verify().unwrap().revoked, id);
        assert!(home.revocation(Some(&copy)).is_err());
        fs::write(&copy, serde_json::to_string(&home.revocation(None).unwrap()).unwrap()).unwrap();
        fs::remove_file(home.identity_file()).unwrap();
        assert_ne!(home.identity().unwrap().peer_id(), id);
        let earlier = dir.path().join(format!("identity.revocation.{}", id.short()));
        assert_eq!(
            home.revocation(Some(&earlier)).unwrap().verify().unwrap().revoked,
            id,
            "the old key can still be ended"
        );
        fs::write(&copy, "x".repeat(9000)).unwrap();
        assert_eq!(home.revocation(None).unwrap_err().code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_key_is_handed_over_to_another_and_what_was_written_is_not_written_over() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (home, other) = (Home(dir.path().to_owned()), Home(elsewhere.path().to_owned()));
        let path = home.succession_file();
        assert_eq!(home.hand_over(&home, &path).unwrap_err().code, ErrorCode::InvalidRequest);
        assert!(!path.exists());
        let said = home.hand_over(&other, &path).unwrap().verify().unwrap();
        let ids = [&home, &other].map(|home| home.identity().unwrap().peer_id());
        assert_eq!((said.revoked, said.successor()), (ids[0], Some(ids[1])));
        assert_eq!(other.revocation(Some(&path)).unwrap().verify().unwrap(), said);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::metadata(&path).unwrap().len() < MAX_REVOCATION_FILE / 2);
        assert!(home.hand_over(&other, &path).is_err());
        assert_eq!(home.revocation(None).unwrap().verify().unwrap().successor(), None);
    }

    #[test]
    fn an_identity_is_made_once_kept_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().to_owned());
        let id = home.identity().unwrap().peer_id();
        assert_eq!(home.identity().unwrap().peer_id(), id);
        for file in [home.identity_file(), home.revocation_file()] {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        assert_eq!(home.revocation(None).unwrap().verify().unwrap().revoked, id);
        fs::set_permissions(home.identity_file(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(home.identity().is_err());
        fs::set_permissions(home.identity_file(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(home.identity_file(), "garbage").unwrap();
        assert!(home.identity().is_err());
        assert_eq!(fs::read_to_string(home.identity_file()).unwrap(), "garbage");
    }

    #[test]
    fn one_node_per_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().to_owned());
        let first = NodeLock::take(&home).unwrap();
        let fault = NodeLock::take(&home).err().unwrap();
        assert!(fault.message.contains(&std::process::id().to_string()), "{}", fault.message);
        drop(first);
        NodeLock::take(&home).unwrap();
    }
}
