//! `kill -9` of either side, between any two effects.
use protocol::core::requestor::Phase;
use protocol::message::LeaseStage;
use simulations::network::Weather;
use simulations::{NodeId, Scenario};

/// Longer than any number of effects from a create to a running VM.
const BOUNDARIES: u32 = 120;
/// A hold, a grant that nobody confirms, and a little.
const LAPSE: u64 = 75_000;

fn pair(seed: u64) -> (Scenario, NodeId, NodeId) {
    let mut scenario = Scenario::new(seed, Weather::fair());
    let provider = scenario.provider(2, "0.01");
    let requestor = scenario.requestor();
    scenario.run_until("the offer is seen", 20_000, |scenario| {
        scenario.world.nodes[requestor].core.as_ref().is_some_and(|core| core.board().len() == 1)
    });
    (scenario, provider, requestor)
}

fn provider_is_empty(scenario: &Scenario, provider: NodeId) -> bool {
    let node = &scenario.world.nodes[provider];
    let ledger = node.core.as_ref().map(|core| core.provider().ledger());
    node.host.vms.is_empty() && ledger.is_some_and(|ledger| ledger.vms() == 0 && ledger.holds().count() == 0)
}

/// Killed between any two effects of a create. True if its rental was on disk with a confirm by then; none if the
/// create was done before.
fn kill_requestor(boundary: u32, down: u64) -> Option<bool> {
    let (mut scenario, provider, requestor) = pair(u64::from(boundary));
    scenario.world.nodes[requestor].crash_after = Some(boundary);
    let request = scenario.request("web");
    let id = scenario.create_with(requestor, request.clone());
    scenario.run_until("it is killed or done", 60_000, |scenario| {
        scenario.world.nodes[requestor].core.is_none() || scenario.is_running(requestor, id)
    });
    if scenario.world.nodes[requestor].core.is_some() {
        return None;
    }
    let known = scenario.world.nodes[requestor].disk.rentals.get(&id).map(|(phase, _)| *phase);
    let confirmed = matches!(known, Some(Phase::Confirming | Phase::Leased));
    scenario.run_for(down);
    if !confirmed && down >= LAPSE {
        assert!(provider_is_empty(&scenario, provider), "boundary {boundary}: nothing is rented after the lapse");
    }
    scenario.world.restart_after(requestor, 0);
    scenario.run_until("it is up again", 1_000, |scenario| scenario.world.nodes[requestor].core.is_some());
    assert_eq!(scenario.rental(requestor, id).is_some(), confirmed, "boundary {boundary}: its own list shows it");
    scenario.run_for(LAPSE);
    if scenario.is_running(requestor, id) {
        let mut again = scenario.request("web");
        again.spec = request.spec;
        let ticket = scenario.world.nodes[requestor].next_ticket;
        scenario.create_with(requestor, again);
        assert_eq!(scenario.world.nodes[requestor].answers[&ticket], Ok(id), "the same create returns it");
        assert_eq!(scenario.world.nodes[provider].host.vms.len(), 1);
    } else {
        // Killed just before the confirm went out, and down until it was too late for it.
        assert!(!confirmed || down >= LAPSE && scenario.failure(requestor, id).is_some(), "boundary {boundary}");
        assert!(provider_is_empty(&scenario, provider), "boundary {boundary}: nothing is rented");
    }
    scenario.wind_up();
    Some(confirmed)
}

/// Before the confirm is on disk nothing stays rented; from then on the VM is known to its tenant, and the same
/// create returns it.
#[test]
fn a_requestor_killed_anywhere_leaves_nothing_or_finds_its_vm() {
    for down in [1_000, LAPSE] {
        let outcomes: Vec<bool> = (0..BOUNDARIES).map_while(|boundary| kill_requestor(boundary, down)).collect();
        let found = outcomes.iter().filter(|confirmed| **confirmed).count();
        let nothing = outcomes.len() - found;
        assert!(nothing >= 3 && found >= 3, "both sides of the confirm: {nothing} before, {found} after");
    }
}

/// A provider killed anywhere: what it let is found and owned after its restart, what it had not let leaves nothing.
#[test]
fn a_provider_killed_anywhere_keeps_its_word() {
    let mut kept = 0;
    for boundary in 0..BOUNDARIES {
        let (mut scenario, provider, requestor) = pair(0);
        scenario.world.nodes[provider].crash_after = Some(boundary);
        let id = scenario.create(requestor, "web");
        scenario.run_until("it is killed or done", 60_000, |scenario| {
            scenario.world.nodes[provider].core.is_none() || scenario.is_running(requestor, id)
        });
        if scenario.world.nodes[provider].core.is_some() {
            break;
        }
        let stage = scenario.world.nodes[provider].disk.leases.values().next().map(|row| row.stage);
        scenario.world.restart_after(provider, 2_000);
        scenario.run_for(60_000);
        if stage == Some(LeaseStage::Active) {
            kept += 1;
            assert!(scenario.is_running(requestor, id), "boundary {boundary}: what was let runs on for its tenant");
            assert_eq!(scenario.world.nodes[provider].host.vms.len(), 1);
        } else {
            let ended = scenario.is_running(requestor, id) || scenario.phase(requestor, id) == Some(Phase::Failed);
            assert!(ended, "boundary {boundary}: the create has come to an end");
        }
        scenario.wind_up();
    }
    assert!(kept >= 3, "it was killed with a lease on disk {kept} times");
}

#[test]
fn a_running_vm_outlives_its_providers_process() {
    let (mut scenario, provider, requestor) = pair(7);
    let id = scenario.create(requestor, "web");
    scenario.run_until("it runs", 60_000, |scenario| scenario.is_running(requestor, id));
    let before = scenario.world.nodes[provider].host.vms.clone();
    scenario.world.crash(provider);
    scenario.run_for(60_000);
    assert_eq!(scenario.world.nodes[provider].host.vms, before, "the hypervisor keeps it");
    assert!(scenario.rental(requestor, id).is_some_and(|rental| rental.unreachable_since.is_some()));
    scenario.world.restart_after(provider, 0);
    scenario.run_until("it is seen again", 40_000, |scenario| {
        let seen = scenario.rental(requestor, id).is_some_and(|rental| rental.unreachable_since.is_none());
        seen && scenario.is_running(requestor, id)
    });
    assert_eq!(scenario.world.nodes[provider].host.vms, before, "and it is the same one");
    scenario.wind_up();
}

/// Taken back while its provider cannot be heard: the list says so, and the release gets through later.
#[test]
fn a_release_gets_through_later() {
    let (mut scenario, provider, requestor) = pair(3);
    let id = scenario.create(requestor, "web");
    scenario.run_until("it is confirmed", 20_000, |scenario| scenario.phase(requestor, id) == Some(Phase::Leased));
    scenario.world.cut(provider);
    scenario.destroy(requestor, id);
    scenario.run_for(120_000);
    assert_eq!(scenario.phase(requestor, id), Some(Phase::Releasing));
    let lease = scenario.rental(requestor, id).and_then(|rental| rental.deal.as_ref()).map(|deal| deal.lease_id);
    let core = scenario.world.nodes[requestor].core.as_ref().expect("it runs");
    let release = core.requestor().release_of(lease.expect("a deal")).expect("a release");
    assert!(release.unreachable.is_some(), "and why it has not got through");
    assert!(core.requestor().has_unfinished(), "an idle exit waits for it");
    // Not even a restart of the requestor forgets it.
    scenario.world.crash(requestor);
    scenario.world.restart_after(requestor, 1_000);
    scenario.world.heal(provider);
    scenario.run_until("all is gone", 60_000, |scenario| {
        scenario.rental(requestor, id).is_none() && scenario.world.nodes[provider].host.vms.is_empty()
    });
    scenario.wind_up();
}
