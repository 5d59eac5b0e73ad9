use super::*;
use std::process::Command;

fn qcow2(dir: &Path, args: &[&str]) -> PathBuf {
    let path = dir.join("d.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(args).arg(&path).arg("64M").status();
    assert!(made.unwrap().success());
    path
}
fn source(disk: PathBuf, sha256: Option<Digest>) -> ImportSource {
    ImportSource::Disk {
        disk,
        name: "mine:1".parse().unwrap(),
        arch: Arch::X86_64,
        default_user: "root".parse().unwrap(),
        kernel: None,
        initrd: None,
        cmdline: None,
        sha256,
    }
}
fn empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn an_image_comes_in_whole_is_found_verified_and_goes() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = ImageStore::new(home.path());
    let disk = qcow2(files.path(), &[]);
    let name: ImageName = "mine:1".parse().unwrap();
    let mut seen = (0, 0);
    let manifest = store.import(&source(disk.clone(), None), &mut |done, all| seen = (done, all)).unwrap();
    assert!(seen.0 == seen.1 && seen.0 > 0, "{seen:?}");
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&manifest));
    assert_eq!(manifest.disk.virtual_size_bytes, 64 << 20);
    assert_eq!(store.import(&source(disk.clone(), None), &mut |_, _| {}).unwrap(), manifest, "the same again");
    store.verify(&name).unwrap();
    let there = store.path(&name, &manifest.disk.file);
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o444);
    fs::write(&disk, b"another").unwrap();
    assert!(store.remove(&name, &[name.clone()].into()).is_err());
    fs::set_permissions(&there, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&there, b"changed").unwrap();
    assert_eq!(store.verify(&name).unwrap_err().code, ErrorCode::ChecksumMismatch);
    store.remove(&name, &BTreeSet::new()).unwrap();
    assert!(empty(home.path()));
    assert_eq!(store.get(&name).unwrap_err().code, ErrorCode::NoSuchImage);
}

#[test]
fn what_is_no_image_leaves_nothing() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = ImageStore::new(home.path());
    let base = files.path().join("base.qcow2");
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&base)
            .arg("64M")
            .status()
            .unwrap()
            .success()
    );
    let backed = qcow2(files.path(), &["-b", base.to_str().unwrap(), "-F", "qcow2"]);
    let refused = store.import(&source(backed, None), &mut |_, _| {}).unwrap_err();
    assert!(refused.message.contains("backing file"), "{refused}");
    let wrong = store.import(&source(base.clone(), Some(Digest([0; 32]))), &mut |_, _| {}).unwrap_err();
    assert_eq!(wrong.code, ErrorCode::ChecksumMismatch);
    let missing = store.import(&source(files.path().join("none"), None), &mut |_, _| {}).unwrap_err();
    assert_eq!(missing.code, ErrorCode::InvalidRequest);
    let text = files.path().join("hostname");
    fs::write(&text, "myhost\n").unwrap();
    let refused = store.import(&source(text, None), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.message, "'hostname' is no disk image: it has 7 bytes, and a raw disk has at least 1048576");
    let link = files.path().join("link");
    std::os::unix::fs::symlink(&base, &link).unwrap();
    assert!(store.import(&source(link, None), &mut |_, _| {}).is_err());
    let bundle = ImportSource::Bundle { dir: files.path().to_owned(), name: None };
    for manifest in ["{", r#"{"name":"a","arch":"x86_64","disk":"../base.qcow2","default_user":"root"}"#] {
        fs::write(files.path().join(MANIFEST), manifest).unwrap();
        assert_eq!(store.import(&bundle, &mut |_, _| {}).unwrap_err().code, ErrorCode::InvalidRequest);
    }
    assert!(empty(home.path()), "something is left");
}
