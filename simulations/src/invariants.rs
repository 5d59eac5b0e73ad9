//! What must hold after every step, and what must hold once everything has come to rest.
use crate::node::{SimNode, StoredLease};
use crate::world::World;
use protocol::core::requestor::Phase;
use protocol::message::LeaseStage;
use protocol::names::{CreateId, LeaseId};
use protocol::units::Resources;
use protocol::{Keypair, PeerId};
use std::collections::BTreeMap;

pub type Verdict = Result<(), String>;

/// Every one of them, with the name that a failure shows.
pub fn check(world: &World) -> Verdict {
    never_oversold(world).map_err(|why| format!("never_oversold: {why}"))?;
    nobody_is_promised_twice(world).map_err(|why| format!("nobody_is_promised_twice: {why}"))?;
    no_orphan_rental(world).map_err(|why| format!("no_orphan_rental: {why}"))?;
    a_yes_is_on_disk(world).map_err(|why| format!("a_yes_is_on_disk: {why}"))
}

fn sum(parts: impl Iterator<Item = Resources>) -> Resources {
    parts.fold(Resources::default(), Resources::plus)
}

/// What exists at a hypervisor, and what its ledger has taken, fits what was offered.
fn never_oversold(world: &World) -> Verdict {
    for (id, node) in world.nodes.iter().enumerate() {
        let Some(offer) = &node.offer else { continue };
        let made = sum(node.host.vms.values().map(|vm| vm.resources));
        if !made.fits_in(offer.total) || node.host.vms.len() > offer.max_vms as usize {
            return Err(format!("node {id} has VMs of {made}, and offered {}", offer.total));
        }
        for (lease, vm) in &node.host.vms {
            let row = node.disk.leases.get(lease);
            if let Some(row) = row.filter(|row| !row.gone && !vm.resources.fits_in(row.resources)) {
                return Err(format!("node {id} has a VM of {}, and let {} of it", vm.resources, row.resources));
            }
        }
        let let_out = sum(node.disk.leases.values().filter(|row| !row.gone).map(|row| row.resources));
        if !let_out.fits_in(offer.total) {
            return Err(format!("node {id} has let {let_out}, and offered {}", offer.total));
        }
        let Some(ledger) = node.core.as_ref().map(|core| core.provider().ledger()) else { continue };
        if !ledger.taken().fits_in(offer.total) || ledger.vms() > offer.max_vms as usize {
            return Err(format!("node {id} promised {}, and offered {}", ledger.taken(), offer.total));
        }
    }
    Ok(())
}

/// The leases that stand, as their providers have them on disk.
fn active_leases(world: &World) -> impl Iterator<Item = (usize, LeaseId, &StoredLease)> + '_ {
    world.nodes.iter().enumerate().flat_map(|(id, node)| {
        let active = node.disk.leases.iter().filter(|(_, row)| row.stage == LeaseStage::Active);
        active.map(move |(lease, row)| (id, *lease, row))
    })
}

fn tenant<'a>(world: &'a World, row: &StoredLease) -> Option<&'a SimNode> {
    world.nodes.iter().find(|node| node.peer == row.requestor)
}

/// One create has at most one active lease that is not being given back.
fn nobody_is_promised_twice(world: &World) -> Verdict {
    let mut owned: BTreeMap<(PeerId, CreateId), LeaseId> = BTreeMap::new();
    for (_, lease, row) in active_leases(world) {
        if tenant(world, row).is_some_and(|node| node.disk.releases.contains(&lease)) {
            continue;
        }
        if let Some(other) = owned.insert((row.requestor, row.create_id), lease) {
            return Err(format!("create {} has the leases {other} and {lease}", row.create_id));
        }
    }
    Ok(())
}

/// Whatever is let is known to whom it is let to: as a rental, or as something still to be given back.
fn no_orphan_rental(world: &World) -> Verdict {
    for (id, lease, row) in active_leases(world) {
        let Some(node) = tenant(world, row).filter(|_| row.ends_at > world.clock(id)) else { continue };
        let dealing = |phase: Phase| matches!(phase, Phase::Confirming | Phase::Leased | Phase::Releasing);
        let rental = node.disk.rentals.get(&row.create_id);
        let rented = rental.is_some_and(|(phase, deal)| *deal == Some(lease) && dealing(*phase));
        if !rented && !node.disk.releases.contains(&lease) {
            return Err(format!("node {id} lets {lease}, and its tenant knows nothing of it"));
        }
    }
    Ok(())
}

/// A lease that a requestor counts on was on its provider's disk before it was told so.
fn a_yes_is_on_disk(world: &World) -> Verdict {
    for (id, node) in world.nodes.iter().enumerate() {
        let leased = node.rentals().filter(|rental| rental.phase == Phase::Leased);
        for deal in leased.filter_map(|rental| rental.deal.as_ref()) {
            let provider = world.nodes.iter().find(|other| other.peer == deal.provider);
            if !provider.is_some_and(|provider| provider.disk.leases.contains_key(&deal.lease_id)) {
                return Err(format!("node {id} counts on {}, of which its provider's disk has nothing", deal.lease_id));
            }
        }
    }
    Ok(())
}

/// Once every rental was destroyed and everything could be heard for a while: nothing is left, anywhere.
pub fn nothing_leaked(world: &World) -> Verdict {
    for (id, node) in world.nodes.iter().enumerate() {
        let Some(core) = &node.core else { return Err(format!("nothing_leaked: node {id} is down")) };
        let left = |what: &str, number: usize| match number {
            0 => Ok(()),
            some => Err(format!("nothing_leaked: node {id} has {some} {what} left")),
        };
        left("VMs", node.host.vms.len())?;
        left("leases let", core.provider().ledger().vms())?;
        left("holds", core.provider().ledger().holds().count())?;
        left("rentals", core.requestor().rentals().count())?;
        left("rentals on disk", node.disk.rentals.len())?;
        left("releases", node.disk.releases.len())?;
        left("unanswered tickets", node.next_ticket as usize - node.answers.len())?;
        if let Some(offer) = &node.offer
            && core.provider().ledger().free() != offer.total
        {
            return Err(format!("nothing_leaked: node {id} has only {} free", core.provider().ledger().free()));
        }
    }
    Ok(())
}

/// For tests: a key that nobody in the world has.
pub fn strangers_key(number: u64) -> Keypair {
    let mut secret = [0xee; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    Keypair::from_secret(&secret)
}
