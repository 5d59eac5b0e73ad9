//! What the tenant gives its guest at first boot. The lease holds only the hash: the seed has the guest's secret
//! host key, and a lease is shown and shared.
use crate::codec;
use crate::error::Fault;
use crate::names::{Digest, VmName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bounds what a tenant can make a provider keep. cloud-init's own limit on most clouds is 16 KiB of user-data.
pub const MAX_SEED: usize = 64 * 1024;
const MAX_KEYS: usize = 32;
const MAX_KEY: usize = 16 * 1024;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    pub hostname: VmName,
    /// OpenSSH public keys, one line each.
    pub authorized_keys: Vec<String>,
    /// The guest's ed25519 host key, made by the tenant, in OpenSSH's private format.
    pub host_key: String,
    /// The tenant's own cloud-init user-data.
    pub user_data: Option<String>,
}

impl Seed {
    pub fn check(&self) -> Result<(), Fault> {
        if self.authorized_keys.is_empty() || self.authorized_keys.len() > MAX_KEYS {
            return Err(Fault::invalid(format!("a VM takes 1 to {MAX_KEYS} SSH keys")));
        }
        if self.authorized_keys.iter().any(|key| key.len() > MAX_KEY || !plain_key(key)) {
            return Err(Fault::invalid("an SSH key is not one line of an OpenSSH public key")
                .hint("give the .pub file that ssh-keygen wrote"));
        }
        if !self.host_key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") || !self.host_key.is_ascii() {
            return Err(Fault::invalid("the guest's host key is not in OpenSSH's private format"));
        }
        let size = self.encode().len();
        if size > MAX_SEED {
            return Err(Fault::invalid(format!("keys and user-data take {size} bytes, more than {MAX_SEED}"))
                .hint("fetch large files from the guest instead of sending them in user-data"));
        }
        Ok(())
    }
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
    /// A seed from a peer: bounded, and equal to what the lease promised.
    pub fn decode(bytes: &[u8], expected: Digest) -> Result<Self, Fault> {
        if Digest::of(bytes) != expected {
            return Err(Fault::invalid("the seed is not the one that the lease names"));
        }
        let seed: Seed = codec::decode(bytes, MAX_SEED).map_err(|e| Fault::invalid(format!("the seed is {e}")))?;
        seed.check()?;
        Ok(seed)
    }
}

/// `type base64 [comment]`, printable ASCII: nothing that could break out of a line of a file or of YAML.
fn plain_key(key: &str) -> bool {
    let mut words = key.split(' ');
    let kind = words.next().unwrap_or_default();
    let body = words.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
    known
        && body.len() >= 16
        && body.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c))
        && key.chars().all(|c| (' '..='~').contains(&c) && c != '"' && c != '\\')
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({})", self.hostname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
            host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            user_data: None,
        }
    }

    #[test]
    fn only_the_promised_seed_is_taken() {
        let bytes = seed().encode();
        assert_eq!(Seed::decode(&bytes, Digest::of(&bytes)).unwrap(), seed());
        assert!(Seed::decode(&bytes, Digest::of(b"other")).is_err());
    }

    #[test]
    fn keys_that_could_break_out_of_a_line_are_refused() {
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\nroot::0:0",
            "x AAAAC3NzaC1lZDI1NTE5AAAA",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA a\"b",
            "command=\"x\" ssh-ed25519 AAAA",
        ] {
            let seed = Seed { authorized_keys: vec![bad.into()], ..seed() };
            assert!(seed.check().is_err(), "{bad}");
        }
        assert!(Seed { user_data: Some("x".repeat(MAX_SEED)), ..seed() }.check().is_err());
        assert!(!format!("{:?}", seed()).contains("PRIVATE"));
    }
}
