use protocol::core::requestor::Phase;
use protocol::message::{LeaseStage, PowerAction, VmPhase};
use protocol::names::CreateId;
use protocol::units::Millis;
use simulations::network::Weather;
use simulations::{NodeId, Scenario};

fn rented(seed: u64, duration: Millis) -> (Scenario, NodeId, NodeId, CreateId) {
    let mut scenario = Scenario::new(seed, Weather::fair());
    let provider = scenario.provider(1, "0.01");
    let requestor = scenario.requestor();
    scenario.run_for(3_000);
    let mut request = scenario.request("web");
    request.spec.duration = duration;
    let id = scenario.create_with(requestor, request);
    scenario.run_until("it runs", 60_000, |scenario| scenario.is_running(requestor, id));
    (scenario, provider, requestor, id)
}

fn stage(scenario: &Scenario, node: NodeId, id: CreateId) -> Option<LeaseStage> {
    scenario.rental(node, id)?.status.as_ref().map(|status| status.stage)
}
fn vm(scenario: &Scenario, node: NodeId, id: CreateId) -> Option<VmPhase> {
    scenario.rental(node, id)?.status.as_ref().map(|status| status.vm)
}

/// Expiry stops the VM and keeps its disk for the grace time; then it goes, and its tenant is told why.
#[test]
fn a_lease_expires() {
    let (mut scenario, provider, requestor, id) = rented(1, Millis::secs(60));
    scenario.run_until("it has expired", 120_000, |scenario| {
        stage(scenario, requestor, id) == Some(LeaseStage::Expired)
            && vm(scenario, requestor, id) == Some(VmPhase::Stopped)
    });
    assert!(scenario.world.nodes[provider].host.vms.values().all(|vm| !vm.on), "it is off, and its disk is there");
    // A restart without an offer must not shorten the grace time that was promised.
    scenario.world.crash(provider);
    scenario.world.restart_after(provider, 1_000);
    scenario.run_until("it is gone", 300_000, |scenario| scenario.phase(requestor, id) == Some(Phase::Failed));
    scenario.run_until("its place is free", 10_000, |scenario| scenario.world.nodes[provider].host.vms.is_empty());
    let fault = scenario.failure(requestor, id).expect("a reason");
    assert!(fault.message.contains("expired"), "{fault:?}");
    scenario.wind_up();
}

#[test]
fn an_expired_lease_at_a_provider_that_was_down_is_not_started_again() {
    let (mut scenario, provider, _, _) = rented(2, Millis::secs(60));
    scenario.world.crash(provider);
    scenario.world.nodes[provider].host.vms.values_mut().for_each(|vm| vm.on = false);
    scenario.run_for(70_000);
    scenario.world.restart_after(provider, 0);
    for _ in 0..30 {
        scenario.run_for(1_000);
        assert!(scenario.world.nodes[provider].host.vms.values().all(|vm| !vm.on));
    }
}

#[test]
fn a_vm_is_switched_and_its_tenant_sees_it() {
    let (mut scenario, _, requestor, id) = rented(3, Millis::secs(7_200));
    let ticket = scenario.power(requestor, id, PowerAction::Stop { force: false });
    scenario.run_until("it is off", 20_000, |scenario| vm(scenario, requestor, id) == Some(VmPhase::Stopped));
    assert_eq!(scenario.world.nodes[requestor].answers[&ticket], Ok(id));
    scenario.power(requestor, id, PowerAction::Start);
    scenario.run_until("it is on", 20_000, |scenario| scenario.is_running(requestor, id));
    let wrong = scenario.power(requestor, id, PowerAction::Start);
    scenario.run_for(1_000);
    assert_eq!(scenario.world.nodes[requestor].answers[&wrong], Ok(id), "a start of what runs is done already");
    scenario.wind_up();
}

/// A VM that vanishes from its hypervisor fails visibly, keeps its place, and is made anew only when its tenant says so.
#[test]
fn a_vm_that_vanished_is_failed_until_it_is_started() {
    let (mut scenario, provider, requestor, id) = rented(4, Millis::secs(7_200));
    scenario.world.nodes[provider].host.vms.clear();
    scenario.run_until("its tenant knows", 60_000, |scenario| vm(scenario, requestor, id) == Some(VmPhase::Failed));
    scenario.world.crash(provider);
    scenario.world.restart_after(provider, 1_000);
    scenario.run_for(30_000);
    assert!(scenario.world.nodes[provider].host.vms.is_empty(), "nothing empty takes its place unasked");
    assert_eq!(scenario.world.nodes[provider].disk.leases.values().filter(|row| !row.gone).count(), 1);
    scenario.power(requestor, id, PowerAction::Start);
    scenario.run_until("it runs again", 60_000, |scenario| scenario.is_running(requestor, id));
    scenario.wind_up();
}

/// A later start that fails must not cost the tenant its disk.
#[test]
fn a_vm_that_has_run_is_not_destroyed_when_a_start_of_it_fails() {
    let (mut scenario, provider, requestor, id) = rented(5, Millis::secs(7_200));
    scenario.world.crash(provider);
    scenario.world.nodes[provider].host.vms.values_mut().for_each(|vm| vm.on = false);
    scenario.world.nodes[provider].host.temper.failures = 100;
    scenario.world.restart_after(provider, 0);
    scenario.run_until("its tenant knows", 90_000, |scenario| vm(scenario, requestor, id) == Some(VmPhase::Failed));
    assert_eq!(scenario.world.nodes[provider].host.vms.len(), 1, "the disk is there");
    assert_eq!(scenario.phase(requestor, id), Some(Phase::Leased));
    scenario.world.nodes[provider].host.temper.failures = 0;
    scenario.power(requestor, id, PowerAction::Start);
    scenario.run_until("it runs again", 60_000, |scenario| scenario.is_running(requestor, id));
    scenario.wind_up();
}
