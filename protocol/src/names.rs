//! Validated names. Each is made once, at the edge, and refused there with a hint.
use crate::error::Fault;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text type whose every value has passed `$check`, also when it arrives by serde.
macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $what:literal, $hint:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = Fault;
            fn try_from(text: String) -> Result<Self, Fault> {
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    Ok($name(text))
                } else {
                    let shown: String = text.chars().take(80).collect();
                    Err(Fault::invalid(format!(concat!("'{}' is not ", $what), shown)).hint($hint))
                }
            }
        }
        impl FromStr for $name {
            type Err = Fault;
            fn from_str(text: &str) -> Result<Self, Fault> {
                Self::try_from(text.to_owned())
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn lower_alnum(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

checked_text!(
    /// A VM's name, which is also its host name: an RFC 1123 label in lower case.
    VmName, "a VM name", "use 1 to 63 lower-case letters, digits and dashes, with no dash at either end",
    |t| (1..=63).contains(&t.len())
        && t.chars().all(|c| lower_alnum(c) || c == '-')
        && !t.starts_with('-')
        && !t.ends_with('-')
);
checked_text!(
    /// What belongs together; known to its tenant alone. It names a folder, too.
    ProjectName, "a project's name", "use 1 to 63 lower-case letters, digits and dashes, with no dash at either end",
    |t| (1..=63).contains(&t.len())
        && t.chars().all(|c| lower_alnum(c) || c == '-')
        && !t.starts_with('-')
        && !t.ends_with('-')
);
checked_text!(
    /// An ISO 3166-1 alpha-2 country code in capitals.
    Country, "a country", "use an ISO 3166-1 alpha-2 code in capitals, such as DE",
    |t| t.len() == 2 && t.chars().all(|c| c.is_ascii_uppercase())
);
checked_text!(
    /// An ISO 4217 currency code, or a token's symbol of the same form.
    Currency, "a currency", "use a code of 3 to 5 capitals, such as EUR",
    |t| (3..=5).contains(&t.len()) && t.chars().all(|c| c.is_ascii_uppercase())
);
checked_text!(
    /// An image's name, such as `tiny` or `debian:12`. It also names a folder, so it never begins with a dot.
    ImageName, "an image name", "use up to 64 lower-case letters, digits, dots, dashes, underscores and one colon, as in ubuntu:24.04",
    |t| (1..=64).contains(&t.len())
        && t.starts_with(lower_alnum)
        && t.chars().all(|c| lower_alnum(c) || ".-_:".contains(c))
        && t.matches(':').count() <= 1
        && !t.contains("..")
        && !t.ends_with(':')
);
checked_text!(
    /// The mesh's own name: nodes of different networks never talk.
    Network, "a network name", "use 1 to 32 lower-case letters, digits and dashes",
    |t| (1..=32).contains(&t.len()) && t.chars().all(|c| lower_alnum(c) || c == '-')
);
checked_text!(
    /// What a provider calls itself on the board; shown, so printable and short.
    NodeName, "a node name", "use 1 to 63 letters, digits, dots and dashes",
    |t| (1..=63).contains(&t.len()) && t.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
);
checked_text!(
    /// Where a node can be reached: a multiaddr, which only the mesh reads. Bounded, since it travels in every advert.
    PeerAddr, "an address of a node", "an address looks like /ip4/192.0.2.1/tcp/4001",
    |t| (2..=200).contains(&t.len()) && t.starts_with('/') && t.chars().all(|c| c.is_ascii_graphic())
);
checked_text!(
    /// The kind of a backend: `libvirt`, `memory`, `docker`, …
    BackendKind, "a backend", "use up to 16 lower-case letters",
    |t| (1..=16).contains(&t.len()) && t.chars().all(lower_alnum)
);
checked_text!(
    /// A login in the guest (a POSIX portable user name).
    GuestUser, "a user name", "use up to 32 lower-case letters, digits, dashes and underscores",
    |t| (1..=32).contains(&t.len())
        && t.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && t.chars().all(|c| lower_alnum(c) || "-_".contains(c))
);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Arch {
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    pub fn as_str(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }
    /// The architecture this was compiled for, if golemnode knows it.
    pub fn of_this_build() -> Option<Arch> {
        std::env::consts::ARCH.parse().ok()
    }
}
impl FromStr for Arch {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "x86_64" | "amd64" => Ok(Arch::X86_64),
            "aarch64" | "arm64" => Ok(Arch::Aarch64),
            other => Err(Fault::invalid(format!("'{other}' is not an architecture")).hint("use x86_64 or aarch64")),
        }
    }
}
impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What stands between a guest and its host. Under emulation QEMU promises no isolation, so it has its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    Simulated,
    Container,
    Emulated,
    Hardware,
}

impl Isolation {
    pub const ALL: [Isolation; 4] =
        [Isolation::Hardware, Isolation::Emulated, Isolation::Container, Isolation::Simulated];

    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::Simulated => "simulated",
            Isolation::Container => "container",
            Isolation::Emulated => "emulated",
            Isolation::Hardware => "hardware",
        }
    }
}
impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a requestor accepts: `vm` takes hardware and emulated guests, `any` also containers and simulated ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IsolationWanted {
    #[default]
    Vm,
    Any,
}

impl IsolationWanted {
    pub fn takes(self, offered: Isolation) -> bool {
        self == IsolationWanted::Any || offered >= Isolation::Emulated
    }
}
impl FromStr for IsolationWanted {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "vm" => Ok(IsolationWanted::Vm),
            "any" => Ok(IsolationWanted::Any),
            other => Err(Fault::invalid(format!("'{other}' is not an isolation")).hint("use vm or any")),
        }
    }
}

/// What a guest can reach: nothing, the Internet without its provider's LAN, or all that its provider's host reaches, but
/// never that host. Said in the advert and at create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    #[default]
    None,
    Internet,
    Open,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Egress::None => "none",
            Egress::Internet => "internet",
            Egress::Open => "open",
        })
    }
}

macro_rules! hex_id {
    ($(#[$meta:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = Fault;
            fn from_str(text: &str) -> Result<Self, Fault> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| Fault::invalid(concat!("not ", $what)).hint(concat!("it has twice ", $len, " hex digits")))?;
                Ok($name(bytes))
            }
        }
        impl TryFrom<String> for $name {
            type Error = Fault;
            fn try_from(text: String) -> Result<Self, Fault> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}
hex_id!(
    /// Names a lease, and the VM on the hypervisor.
    LeaseId, 16, "a lease id"
);
hex_id!(
    /// Made once by the requestor for each VM it wants: whatever is repeated under it is the same create.
    CreateId, 16, "a create id"
);
hex_id!(
    /// Made once by the requestor for each time that it switches a VM: whatever is repeated under it is the same.
    ActId, 16, "the id of an action"
);
hex_id!(
    /// Names one quote.
    QuoteId, 16, "a quote id"
);
hex_id!(
    /// SHA-256.
    Digest, 32, "a SHA-256 digest"
);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest(sha2::Sha256::digest(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names() {
        let longest = "a".repeat(63);
        for good in ["a", "web", "web-1", "0", longest.as_str()] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "Web", "a_b", "a b", "a.b", "ä", "../x", "a\n", too_long.as_str()] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn image_names_never_climb_out_of_a_folder() {
        for good in ["tiny", "debian:12", "ubuntu:24.04"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a..b", "a/b", "a:", "a:b:c", "A", "-a"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn checked_names_are_checked_by_serde_too() {
        assert!(serde_json::from_str::<VmName>("\"../x\"").is_err());
        assert!(serde_json::from_str::<LeaseId>("\"00\"").is_err());
        let id = LeaseId([7; 16]);
        assert_eq!(serde_json::from_str::<LeaseId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn isolation_wanted() {
        assert!(IsolationWanted::Vm.takes(Isolation::Hardware) && IsolationWanted::Vm.takes(Isolation::Emulated));
        assert!(!IsolationWanted::Vm.takes(Isolation::Container) && !IsolationWanted::Vm.takes(Isolation::Simulated));
        assert!(IsolationWanted::Any.takes(Isolation::Simulated));
    }
}
