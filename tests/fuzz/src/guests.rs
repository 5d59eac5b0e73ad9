//! What a guest says, and what its tenant gives it.
use backends::fuzzing;
use protocol::names::{Digest, LeaseId};
use protocol::seed::{MAX_SEED, Seed};

/// Answers of QEMU and libvirt, parts of which a guest can choose.
pub fn guest_answers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(console) = fuzzing::libvirt::console(text) {
        assert!(console.len() <= text.len());
    }
    let forwards = fuzzing::libvirt::forwards(text);
    assert!(forwards.len() <= text.lines().count());
    let (kvm, id) = fuzzing::libvirt::domain(text);
    assert!(!kvm || text.contains("<domain"));
    if let Some(id) = id {
        assert_eq!(text.to_lowercase(), format!("golemnode-{id}"));
    }
    if let Some(blob) = fuzzing::public_key(text) {
        assert!(blob.len() <= text.len());
    }
    if let Some(line) = fuzzing::public_half(text) {
        assert!(line.starts_with("ssh-ed25519 ") && !line.contains('\n'));
        assert!(fuzzing::public_key(&line).is_some());
    }
}

/// A guest's SSH server.
pub fn ssh_server(data: &[u8]) {
    match fuzzing::ssh_host_key(data) {
        Ok(key) => assert!(key.is_empty() || data.windows(key.len()).any(|window| window == key), "made up"),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it waits for what cannot come"),
    }
}

/// The seed, as a provider gets it and hands it on to cloud-init.
pub fn seed(data: &[u8]) {
    assert!(Seed::decode(data, Digest::of(b"another")).is_err() || data == b"another");
    let seed = match Seed::decode(data, Digest::of(data)) {
        Ok(seed) => seed,
        Err(fault) => return crate::must_be_plain(&fault.message, 300),
    };
    assert!(seed.encode().len() <= MAX_SEED);
    assert_eq!(Seed::decode(&seed.encode(), Digest::of(&seed.encode())).as_ref(), Ok(&seed));
    assert!(seed.authorized_keys.iter().all(|key| !key.contains(['\n', '\r', '"', '\\'])), "one line each");
    assert!(!format!("{seed:?}").contains("PRIVATE"));
    for user in ["root", "debian"] {
        let user = user.parse().expect("a user's name");
        let Ok(rendered) = backends::seed::render(LeaseId([1; 16]), &user, &seed) else { return };
        assert_eq!(rendered.meta_data.lines().count(), 2);
        if seed.user_data.is_none() {
            let ours = rendered.user_data.strip_prefix("#cloud-config\n").expect("it says what it is");
            let config: serde_json::Value = serde_json::from_str(ours).expect("JSON is YAML");
            assert_eq!(config["hostname"], seed.hostname.as_str());
            assert_eq!(config["ssh_keys"]["ed25519_private"], seed.host_key.as_str());
            assert_eq!(config["ssh_authorized_keys"].as_array().map(Vec::len), Some(seed.authorized_keys.len()));
        } else {
            // Two parts: the tenant's, encoded, and ours behind it.
            assert_eq!(rendered.user_data.lines().filter(|line| line.starts_with("--==golemnode==")).count(), 3);
        }
    }
}
