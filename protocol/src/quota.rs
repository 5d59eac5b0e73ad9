//! How much one requestor may have at a provider at once. Strangers have no tier, and no limit but the provider's own.
use crate::error::Fault;
use crate::identity::PeerId;
use crate::units::{MemoryMib, Resources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Given by hand, each; a row has some 60 bytes.
pub const MAX_QUOTAS: usize = 4096;

/// The greater one comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Free,
    Pro,
}

/// What a tier allows. Disk is bounded by what the provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub vms: u32,
    pub cpus: u32,
    pub memory_mib: MemoryMib,
}

/// What a requestor has: leases, and what is held for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub vms: u32,
    pub resources: Resources,
}

impl Tier {
    pub fn quota(self) -> Quota {
        match self {
            Tier::Free => Quota { vms: 1, cpus: 2, memory_mib: MemoryMib(4 * 1024) },
            Tier::Pro => Quota { vms: 3, cpus: 4, memory_mib: MemoryMib(8 * 1024) },
        }
    }
}

impl Quota {
    pub fn allows(self, usage: Usage) -> bool {
        let Usage { vms, resources } = usage;
        vms <= self.vms && resources.cpus <= self.cpus && resources.memory_mib <= self.memory_mib
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.vms == 1 { "" } else { "s" };
        write!(f, "{} VM{s}, {} CPUs, {} memory", self.vms, self.cpus, self.memory_mib)
    }
}

impl Usage {
    pub fn plus(self, asked: Resources) -> Usage {
        Usage { vms: self.vms.saturating_add(1), resources: self.resources.plus(asked) }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Free => "free",
            Tier::Pro => "pro",
        })
    }
}

impl FromStr for Tier {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "free" => Ok(Tier::Free),
            "pro" => Ok(Tier::Pro),
            other => Err(Fault::invalid(format!("'{other}' is no tier")).hint("the tiers are free and pro")),
        }
    }
}

/// Who has which tier, as the operator has said.
#[derive(Debug, Default)]
pub struct Quotas(BTreeMap<PeerId, Tier>);

/// As it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRow {
    pub peer: PeerId,
    pub tier: Tier,
}

impl Quotas {
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, Tier)> + '_ {
        self.0.iter().map(|(peer, tier)| (*peer, *tier))
    }
    /// Of a peer, or, where it has none, the greatest of those for whom it goes on.
    pub fn of(&self, peer: PeerId, predecessors: &[PeerId]) -> Option<Tier> {
        let inherited = || predecessors.iter().filter_map(|old| self.0.get(old)).max();
        self.0.get(&peer).or_else(inherited).copied()
    }
    pub fn restore(&mut self, row: QuotaRow) {
        self.0.insert(row.peer, row.tier);
    }
    /// False when there is no room for one more.
    pub fn set(&mut self, peer: PeerId, tier: Option<Tier>) -> bool {
        match tier {
            None => {
                self.0.remove(&peer);
            }
            Some(_) if self.0.len() >= MAX_QUOTAS && !self.0.contains_key(&peer) => return false,
            Some(tier) => {
                self.0.insert(peer, tier);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_all_of_its_limits() {
        let free = Tier::Free.quota();
        let one = |cpus, memory| Usage::default().plus(Resources::new(cpus, memory, 500));
        assert!(free.allows(one(2, 4096)) && !free.allows(one(3, 4096)) && !free.allows(one(2, 4097)));
        assert!(!free.allows(one(1, 1024).plus(Resources::new(1, 1024, 10))), "two VMs");
        assert!(Tier::Pro > Tier::Free);
        assert_eq!((free.to_string(), "pro".parse()), ("1 VM, 2 CPUs, 4G memory".to_owned(), Ok(Tier::Pro)));
        assert!("gold".parse::<Tier>().is_err());
    }

    #[test]
    fn an_heir_has_what_its_predecessors_had_unless_it_was_given_its_own() {
        let peer = |n: u8| crate::Keypair::from_secret(&[n; 32]).peer_id();
        let mut quotas = Quotas::default();
        quotas.set(peer(1), Some(Tier::Free));
        quotas.set(peer(2), Some(Tier::Pro));
        assert_eq!(quotas.of(peer(3), &[]), None);
        assert_eq!(quotas.of(peer(3), &[peer(1), peer(2)]), Some(Tier::Pro));
        quotas.set(peer(3), Some(Tier::Free));
        assert_eq!(quotas.of(peer(3), &[peer(1), peer(2)]), Some(Tier::Free));
        quotas.set(peer(3), None);
        assert_eq!(quotas.of(peer(3), &[peer(1)]), Some(Tier::Free));
    }
}
