//! Files that are right, files that are wrong, and plans held against what is rented.
use super::place::Offers;
use super::plan::{Action, Plan, plan};
use super::wanted::{Project, resolve};
use super::{file, wanted};
use node::api::types::{ProviderView, VmLease, VmStatus, VmView};
use protocol::units::Resources;
use protocol::{ErrorCode, Fault, Keypair, PeerId};
use serde_json::json;
use std::path::Path;

/// As the examples of the VirtFusion backend have it.
const BASIC: &str = r#"{
  "project_name": "talis-test",
  "instances": [{
    "name": "test-server", "provider": "virtfusion", "hypervisor_id": 2, "hypervisor_group": "Prague",
    "resources": {"memory": 1024, "disk": 25, "cpu": 1},
    "network": {"profile_id": 2, "bandwidth": 1000},
    "template": "ubuntu-22.04", "ssh_key_name": "default"
  }]
}"#;

fn project(text: &str) -> Result<Project, Fault> {
    resolve("p.yaml", Path::new("."), &file::parse("p.yaml", text)?, &"debian:12".parse()?)
}

fn peer(n: u8) -> PeerId {
    Keypair::from_secret(&[n; 32]).peer_id()
}

fn offer(n: u8, price: &str, cpus: u32) -> ProviderView {
    serde_json::from_value(json!({
        "peer_id": peer(n), "name": null, "country": "DE", "arch": "x86_64", "backend": "libvirt",
        "isolation": "emulated", "egress": "none",
        "free": {"cpus": cpus, "memory_mib": 8192, "disk_gib": 100},
        "largest": {"cpus": 4, "memory_mib": 8192, "disk_gib": 100},
        "price_per_hour": price, "currency": "EUR", "images": ["debian:12", "tiny"],
        "expires_at": "2026-11-24T00:00:00.000Z", "latency_ms": null, "score": 0.5,
    }))
    .unwrap()
}

fn vm(name: &str, project: Option<&str>, at: u8) -> VmView {
    serde_json::from_value(json!({
        "id": format!("{name}-id"), "name": name, "status": "running", "provider": peer(at), "project": project,
        "image": "debian:12", "cpus": 1, "memory_mib": 1024, "disk_gib": 10, "ssh": null, "isolation": "emulated",
        "lease": {"id": "00".repeat(16), "price_per_hour": "0.01", "currency": "EUR", "expires_at": "2026-11-25T00:00:00.000Z"},
        "egress": "none", "created_at": "2026-11-24T00:00:00.000Z",
        "timings_ms": {"discover": 0, "quote": 0, "lease": 0, "provision": 0, "boot": 0, "total": 0},
    }))
    .unwrap()
}

fn planned(text: &str, vms: &[VmView], offers: Vec<ProviderView>) -> Plan {
    plan(&project(text).unwrap(), vms, &mut Offers::new(offers)).unwrap()
}

fn actions(plan: &Plan) -> Vec<(Action, &str)> {
    plan.changes.iter().map(|change| (change.action, change.name.as_str())).collect()
}

#[test]
fn a_file_means_what_it_says_with_and_without_units() {
    let bare = project(BASIC).unwrap();
    let with_units = project(
        "project_name: talis-test\ninstances:\n- {name: test-server, provider: virtfusion, template: ubuntu-22.04, \
         ssh_key_name: default, resources: {memory: 1G, disk: 25G, cpu: 1}}\n",
    )
    .unwrap();
    let (one, other) = (&bare.wanted[0].create, &with_units.wanted[0].create);
    assert_eq!(one.resources, Resources::new(1, 1024, 25));
    assert_eq!(one.resources, other.resources);
    assert_eq!((one.image.as_str(), one.backend.as_ref().unwrap().as_str()), ("ubuntu:22.04", "virtfusion"));
    assert_eq!((bare.name.as_str(), one.name.as_str(), one.duration_s), ("talis-test", "test-server", 86_400));
    let cannot = &bare.wanted[0].cannot;
    assert_eq!(cannot.len(), 4, "{cannot:?}");
    assert!(cannot[0].starts_with("p.yaml:4:71: instances[0].hypervisor_id: "), "{cannot:?}");
    let with_network = BASIC.replace("1000}", "1000, \"public_ip\": true, \"firewall_rulesets\": [2, 3]}");
    assert_eq!(project(&with_network).unwrap().wanted[0].cannot.len(), 6);
}

#[test]
fn several_that_are_alike_share_a_budget_and_have_names_of_their_own() {
    let text = "project_name: p\ninstances:\n- {name: web, number_of_instances: 4, budget: 0.96, duration: 24h}\n";
    let wanted = project(text).unwrap().wanted;
    let names: Vec<&str> = wanted.iter().map(|one| one.create.name.as_str()).collect();
    assert_eq!(names, ["web", "web-2", "web-3", "web-4"]);
    assert!(wanted.iter().all(|one| one.create.max_price.unwrap().to_string() == "0.01"));
}

#[test]
fn conditions_narrow_who_may_make_it() {
    let text = |provider: &str| format!("project_name: p\ninstances:\n- name: web\n  provider: {provider}\n");
    let of = |provider: &str| project(&text(provider)).unwrap().wanted[0].create.clone();
    let narrowed = of("country=DE,arch=x86_64,isolation=any,max_price=0.02");
    assert_eq!(narrowed.country.unwrap().as_str(), "DE");
    assert_eq!(narrowed.max_price.unwrap().to_string(), "0.02");
    assert_eq!(of(&peer(1).to_string()).provider, Some(peer(1)));
    assert_eq!((of("auto").provider, of("auto").backend), (None, None));
    let placed = |provider: &str| planned(&text(provider), &[], vec![offer(1, "0.01", 4), offer(2, "0.03", 4)]);
    assert_eq!(placed(&peer(2).to_string()).changes[0].provider, Some(peer(2)));
    assert_eq!(placed("country=CZ").changes[0].provider, None);
    assert_eq!(placed("max_price=0.001").changes[0].provider, None);
    assert_eq!(placed("docker").changes[0].why.as_deref(), Some("nobody offers that now"));
}

#[test]
fn the_cheapest_with_room_has_it_and_spread_goes_before_price() {
    let text = |spread: bool| {
        format!("project_name: p\ninstances:\n- {{name: web, number_of_instances: 4, spread: {spread}}}\n")
    };
    let offers = || vec![offer(1, "0.01", 2), offer(2, "0.02", 8), offer(3, "0.03", 8)];
    let at = |plan: &Plan, n: u8| plan.changes.iter().filter(|change| change.provider == Some(peer(n))).count();
    let cheap = planned(&text(false), &[], offers());
    assert_eq!([at(&cheap, 1), at(&cheap, 2), at(&cheap, 3)], [2, 2, 0]);
    assert_eq!(cheap.cost.values().next().unwrap().to_string(), "1.44", "2 × 24 × 0.01 + 2 × 24 × 0.02");
    let spread = planned(&text(true), &[], offers());
    assert_eq!([at(&spread, 1), at(&spread, 2), at(&spread, 3)], [2, 1, 1]);
    // Those that are there count.
    let there = [vm("web", Some("p"), 2)];
    let spread = planned(&text(true), &there, offers());
    assert_eq!([at(&spread, 1), at(&spread, 2), at(&spread, 3)], [2, 1, 1]);
}

#[test]
fn who_has_refused_is_not_asked_again_and_gives_the_room_back() {
    let project = project("project_name: p\ninstances:\n- {name: web, number_of_instances: 2}\n").unwrap();
    let mut offers = Offers::new(vec![offer(1, "0.01", 1), offer(2, "0.02", 1)]);
    let first = offers.place(&project.wanted[0]).unwrap().peer_id;
    assert_eq!(first, peer(1));
    offers.refuse(&project.wanted[0], first);
    assert_eq!(offers.place(&project.wanted[0]).unwrap().peer_id, peer(2));
    assert!(offers.place(&project.wanted[1]).is_none(), "one has refused, the other is full");
}

#[test]
fn a_plan_makes_what_is_missing_and_leaves_the_rest() {
    let text = "project_name: p\ninstances:\n- {name: web, number_of_instances: 2}\n- name: db\n- name: old\n";
    let mut failed = vm("old", Some("p"), 1);
    failed.status = VmStatus::Failed;
    let vms = [vm("web", Some("p"), 1), failed, vm("web-3", Some("p"), 1), vm("alone", None, 1)];
    let plan = planned(text, &vms, vec![offer(1, "0.01", 8)]);
    let wanted = [
        (Action::Keep, "web"),
        (Action::Create, "web-2"),
        (Action::Create, "db"),
        (Action::Replace, "old"),
        (Action::Remove, "web-3"),
    ];
    assert_eq!(actions(&plan), wanted);
    assert!(plan.check().is_ok());
    let shown = plan.text();
    assert!(shown.contains("p: 2 to create, 1 to replace, 1 to remove, 1 to keep"), "{shown}");
}

#[test]
fn what_is_there_otherwise_or_is_somebody_elses_is_left_alone() {
    let text = "project_name: p\ninstances:\n- {name: web, resources: {memory: 2048}}\n";
    let plan_of = planned(text, &[vm("web", Some("p"), 1)], Vec::new());
    assert_eq!(actions(&plan_of), [(Action::Differ, "web")]);
    let fault = plan_of.check().unwrap_err();
    assert_eq!(fault.code, ErrorCode::WrongState);
    assert_eq!(fault.message, "'web' is there with memory 1G, not 2G");
    for other in [None, Some("q")] {
        let fault = plan(&project(text).unwrap(), &[vm("web", other, 1)], &mut Offers::new(Vec::new())).unwrap_err();
        assert_eq!(fault.code, ErrorCode::VmExists);
        assert!(fault.hint.is_some() && fault.message.contains("not of p"), "{fault}");
    }
    // A failure is kept to be read; it is in nobody's way.
    let mut failed = vm("web", None, 1);
    (failed.status, failed.lease) = (VmStatus::Failed, None::<VmLease>);
    assert_eq!(actions(&planned(text, &[failed], vec![offer(1, "0.01", 8)])), [(Action::Replace, "web")]);
    let beyond = plan(&project(BASIC).unwrap(), &[], &mut Offers::new(Vec::new())).unwrap();
    assert_eq!(beyond.check().unwrap_err().code, ErrorCode::BackendCannot);
}

/// One field of one instance.
fn with(field: &str) -> String {
    format!("project_name: p\ninstances:\n- name: web\n  {field}\n")
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_its_place() {
    let cases = [
        ("".to_owned(), "p.yaml: there is nothing in it"),
        ("hello".to_owned(), "p.yaml:1:1: fields with values are wanted here"),
        ("project_name: p\n".to_owned(), "p.yaml:1:1: missing field `instances`"),
        ("instances: []\n".to_owned(), "p.yaml:1:1: missing field `project_name`"),
        ("project_name: p\ninstances: []\n".to_owned(), "p.yaml:2:12: instances: there has to be one at least"),
        ("project_name: p\ninstances: 3\n".to_owned(), "p.yaml:2:12: instances: a list is wanted here"),
        ("project_name: P q\ninstances: [{name: a}]\n".to_owned(), "p.yaml:1:15: project_name: "),
        (
            "project_name: p\nproject_name: q\ninstances: [{name: a}]\n".to_owned(),
            "p.yaml:2:1: given twice: project_name",
        ),
        ("project_name: p\n\tinstances: []\n".to_owned(), "p.yaml:1:15: "),
        (
            "project_name: p\ninstances: [{name: a}]\n---\na: 1\n".to_owned(),
            "p.yaml:4:1: there is more than one document",
        ),
        (
            "project_name: p\ninstances: [{name: a}, {name: a}]\n".to_owned(),
            "p.yaml:2:31: instances[1].name: 'a' is of instances[0]",
        ),
        ("project_name: p\ninstances: [{image: tiny}]\n".to_owned(), "p.yaml:2:14: instances[0]: missing field `name`"),
        ("project_name: p\ninstances: [{name: A_b}]\n".to_owned(), "p.yaml:2:20: instances[0].name: "),
        (with("memory: 4"), "p.yaml:4:3: instances[0].memory: unknown field `memory`"),
        (with("number_of_instances: 0"), "p.yaml:4:24: instances[0].number_of_instances: '0' is not a whole number"),
        (with("number_of_instances: -2"), "p.yaml:4:24: instances[0].number_of_instances: '-2' is not"),
        (with("number_of_instances: 1.5"), "p.yaml:4:24: instances[0].number_of_instances: '1.5' is not"),
        (with("number_of_instances: 5000"), "p.yaml:4:24: instances[0].number_of_instances: '5000' is not"),
        (with("resources: {memory: lots}"), "p.yaml:4:23: instances[0].resources.memory: "),
        (with("resources: {memory: 1}"), "p.yaml:4:23: instances[0].resources: a VM has at least 128M"),
        (with("resources: {disk: 0}"), "p.yaml:4:21: instances[0].resources: "),
        (with("resources: {cpu: 1000}"), "p.yaml:4:20: instances[0].resources.cpu: '1000' is not a whole number"),
        (with("resources: [1]"), "p.yaml:4:14: instances[0].resources: fields with values are wanted here"),
        (with("resources: {ram: 1}"), "p.yaml:4:15: instances[0].resources.ram: unknown field `ram`"),
        (with("provider: nowhere"), "p.yaml:4:13: instances[0].provider: 'nowhere' is neither"),
        (with("provider: size=big"), "p.yaml:4:13: instances[0].provider: 'size' is no condition"),
        (with("provider: country=Germany"), "p.yaml:4:13: instances[0].provider: "),
        (
            with("provider: docker\n  backend: libvirt"),
            "p.yaml:4:13: instances[0].provider: docker, but backend is libvirt",
        ),
        (with("image: a\n  template: b"), "p.yaml:5:13: instances[0].template: image is given already"),
        (with("image: ../x"), "p.yaml:4:10: instances[0].image: "),
        (with("budget: -1"), "p.yaml:4:11: instances[0].budget: "),
        (with("budget: [1]"), "p.yaml:4:3: instances[0].budget: invalid type: sequence"),
        (with("duration: soon"), "p.yaml:4:13: instances[0].duration: "),
        (with("provision: true"), "p.yaml:4:14: instances[0].provision: there is no script to run"),
        (with("provision: maybe"), "p.yaml:4:14: instances[0].provision: "),
        (with("provision: true\n  script: not-there.sh"), "p.yaml:5:11: instances[0].script: there is no file"),
        (with("volumes: [{name: data}]"), "p.yaml:4:14: instances[0].volumes[0]: missing field `size_gb`"),
        (with("volumes: [{name: data, size_gb: big}]"), "p.yaml:4:35: instances[0].volumes[0].size_gb: 'big' is not"),
        (
            with("volumes: [{name: d, size_gb: 1, mount_point: mnt}]"),
            "p.yaml:4:48: instances[0].volumes[0].mount_point: 'mnt' does not",
        ),
        (with("network: {bandwidth: fast}"), "p.yaml:4:24: instances[0].network.bandwidth: 'fast' is not"),
        (
            with("network: {firewall_rulesets: [2, x]}"),
            "p.yaml:4:36: instances[0].network.firewall_rulesets[1]: 'x' is not",
        ),
    ];
    let mut amiss = Vec::new();
    for (text, wanted) in cases {
        let fault = project(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
        let clear = fault.code == ErrorCode::InvalidRequest && fault.message.lines().count() == 1;
        if !clear || !fault.message.starts_with(wanted) {
            amiss.push(format!("{text}\n  said {fault}\n  not  {wanted}"));
        }
    }
    assert!(amiss.is_empty(), "{}", amiss.join("\n"));
}

#[test]
fn a_file_is_no_way_to_fill_the_memory() {
    let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n\
                c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n";
    assert!(project(bomb).is_err());
    let many = format!("project_name: p\ninstances: [{}]\n", "{name: a, number_of_instances: 1000}, ".repeat(2));
    assert!(project(&many).unwrap_err().message.contains("at most 1024 VMs"), "{:?}", project(&many).err());
    let deep = format!("project_name: {}", "[".repeat(20_000));
    assert!(project(&deep).is_err());
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large.yaml");
    std::fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    let fault = wanted::load(&large, &"tiny".parse().unwrap()).unwrap_err();
    assert!(fault.message.contains("at most 1048576"), "{fault}");
}

#[test]
fn the_schema_knows_every_field_that_is_read() {
    let schema = serde_json::to_value(schemars::schema_for!(file::ProjectFile)).unwrap();
    let of = |name: &str| schema["$defs"][name]["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for field in ["number_of_instances", "hypervisor_group", "user_data", "spread", "volumes"] {
        assert!(of("Instance").contains(&field.to_owned()), "{field}");
    }
    assert_eq!(of("Machine"), ["cpu", "disk", "memory"]);
    assert_eq!(schema["required"], json!(["project_name", "instances"]));
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["$defs"]["Instance"]["properties"]["spread"]["description"].as_str().unwrap().contains("another"));
}
