//! Project files over several providers, some of which refuse or die: what is there in the end is what the file says.
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use tests::{Home, PATIENCE, eventually};

const PROVIDER: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_cpus = 8\noffer_memory = \"2G\"\n\
                        offer_disk = \"9G\"\nmax_vms = 7\nprepaid = false\ncpu_threshold = 100\n\
                        memory_threshold = 100\ndisk_threshold = 100\n";
/// Of a day: 20 VMs for at most 0.0104 an hour each.
const BUDGET: f64 = 5.0;

struct Tenant {
    home: Home,
    file: PathBuf,
}

impl Tenant {
    fn new() -> Self {
        let home = Home::new();
        let file = home.path().join("farm.yaml");
        Tenant { home, file }
    }
    /// So many VMs.
    fn wants(&self, count: u32) {
        let text = format!(
            "project_name: farm\ninstances:\n- name: web\n  number_of_instances: {count}\n  \
             provider: isolation=any\n  resources: {{cpu: 1, memory: 128, disk: 1}}\n  budget: {BUDGET}\n  spread: true\n"
        );
        std::fs::write(&self.file, text).unwrap();
    }
    fn args<'a>(&'a self, command: &'a [&'a str]) -> Vec<&'a str> {
        [command, &["-f", self.file.to_str().unwrap()]].concat()
    }
    fn plan(&self) -> Value {
        self.home.json(&self.args(&["plan"]))
    }
    fn count(&self, action: &str) -> usize {
        let plan = self.plan();
        plan["changes"].as_array().unwrap().iter().filter(|change| change["action"] == action).count()
    }
    fn begin_apply(&self) -> Child {
        let mut command = self.home.command(&self.args(&["apply", "--timeout", "60s"]));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
    fn vms(&self) -> Vec<Value> {
        self.home.json(&["vm", "list"]).as_array().unwrap().clone()
    }
}

fn leases(homes: &[&Home]) -> u64 {
    let of = |home: &&Home| home.json(&["node", "status"])["provider"]["leases"].as_u64().unwrap();
    homes.iter().map(of).sum()
}

#[test]
fn twenty_over_four_providers_one_of_which_refuses_and_one_dies() {
    let tenant = Tenant::new();
    let node = tenant.home.node(&["--network", "test"]);
    let (via, me) = (node.addr(), node.peer_id());
    let homes: Vec<Home> = (0..4).map(|_| Home::new()).collect();
    for (home, more) in homes.iter().zip([
        format!("price_per_hour = \"0.001\"\ndeny = [\"{me}\"]\n"),
        "price_per_hour = \"0.002\"\n".to_owned(),
        "price_per_hour = \"0.01\"\n".to_owned(),
        "price_per_hour = \"0.0104\"\n".to_owned(),
    ]) {
        home.config(&format!("{PROVIDER}{more}"));
    }
    let provide = ["--provide", "--backend", "memory", "--network", "test", "--bootstrap", &via];
    let mut nodes: Vec<_> = homes.iter().map(|home| home.node(&provide)).collect();
    eventually("they are on the board", PATIENCE, || {
        let list = tenant.home.json(&["provider", "list", "--isolation", "any"]);
        (list.as_array().map(Vec::len) == Some(4)).then_some(())
    });
    tenant.wants(20);
    assert_eq!(tenant.count("create"), 20);
    let cost: f64 = tenant.plan()["cost"]["EUR"].as_str().unwrap().parse().unwrap();
    assert!(cost > 0.0 && cost <= BUDGET, "{cost}");

    let mut applying = tenant.begin_apply();
    eventually("it is half done", PATIENCE, || (tenant.vms().len() >= 8).then_some(()));
    nodes.remove(1).kill();
    eventually("the first apply ends", PATIENCE, || applying.try_wait().unwrap());
    let _again = homes[1].node(&provide);
    eventually("there is room for all", PATIENCE, || {
        let plan = tenant.plan();
        let changes = plan["changes"].as_array().unwrap();
        changes.iter().all(|change| !change["provider"].is_null()).then_some(())
    });
    tenant.home.run(&tenant.args(&["--yes", "apply", "--timeout", "60s"])).ok();
    let vms = tenant.vms();
    assert_eq!(vms.len(), 20, "{vms:?}");
    eventually("all of them run", PATIENCE, || tenant.vms().iter().all(|vm| vm["status"] == "running").then_some(()));
    let all: Vec<&Home> = homes.iter().collect();
    eventually("nothing is let twice", PATIENCE, || (leases(&all) == 20).then_some(()));
    assert_eq!(leases(&all[..1]), 0, "who denies has none");
    let hour: f64 = vms.iter().map(|vm| vm["lease"]["price_per_hour"].as_str().unwrap().parse::<f64>().unwrap()).sum();
    assert!(hour * 24.0 <= BUDGET, "{hour}");

    // Once more changes nothing; fewer gives some back, and asks before it does.
    let ids = |vms: Vec<Value>| vms.iter().map(|vm| vm["id"].clone()).collect::<Vec<_>>();
    let applied = tenant.home.json(&tenant.args(&["apply"]));
    assert_eq!((&applied["kept"], applied["created"].as_array().unwrap().len()), (&20.into(), 0), "{applied}");
    assert_eq!(ids(tenant.vms()), ids(vms));
    let fewer = std::fs::read_to_string(&tenant.file).unwrap().replace("instances: 20", "instances: 18");
    std::fs::write(&tenant.file, fewer).unwrap();
    tenant.home.run(&tenant.args(&["apply"])).fails(2, "REQ_001");
    assert_eq!(tenant.vms().len(), 20);
    let applied = tenant.home.json(&tenant.args(&["--yes", "apply"]));
    assert_eq!(applied["removed"], serde_json::json!(["web-19", "web-20"]));
    tenant.home.run(&["vm", "create", "alone", "--isolation", "any", "--memory", "128M", "--disk", "1G"]).ok();

    tenant.home.run(&tenant.args(&["delete"])).fails(2, "REQ_001");
    assert_eq!(tenant.home.run(&tenant.args(&["--json", "delete"])).code(), 2, "a script has to say that it means it");
    assert_eq!(tenant.vms().len(), 19);
    tenant.home.run(&tenant.args(&["--yes", "delete"])).ok();
    let left: Vec<Value> = tenant.vms().iter().map(|vm| vm["name"].clone()).collect();
    assert_eq!(left, ["alone"], "what is of no project stays");
    eventually("they are given back", PATIENCE, || (leases(&all) == 1).then_some(()));
    assert_eq!(tenant.home.json(&tenant.args(&["--yes", "delete"]))["removed"], serde_json::json!([]));
    tenant.home.run(&["vm", "destroy", "alone", "--yes"]).ok();
}

#[test]
fn a_file_that_cannot_be_applied_says_where_and_makes_nothing() {
    let tenant = Tenant::new();
    let _node = tenant.home.node(&["--network", "test"]);
    std::fs::write(&tenant.file, "project_name: p\ninstances:\n- name: web\n  resources: {memory: lots}\n").unwrap();
    let said = tenant.home.run(&tenant.args(&["plan"])).fails(2, "REQ_001").stderr();
    assert!(said.contains("farm.yaml:4:23: instances[0].resources.memory: 'lots' is not a size"), "{said}");
    assert!(said.contains("\nhint: "), "{said}");
    std::fs::write(
        &tenant.file,
        "project_name: p\ninstances:\n- {name: web, hypervisor_id: 2, provider: virtfusion}\n",
    )
    .unwrap();
    let plan = tenant.plan();
    assert_eq!(plan["changes"][0]["action"], "create");
    assert_eq!(plan["changes"][0]["why"], "nobody offers that now");
    let said = tenant.home.run(&tenant.args(&["apply"])).fails(1, "VM_005").stderr();
    assert!(said.contains("farm.yaml:3:30: instances[0].hypervisor_id"), "{said}");
    std::fs::write(&tenant.file, "project_name: p\ninstances:\n- name: web\n").unwrap();
    tenant.home.run(&tenant.args(&["apply"])).fails(3, "RES_003");
    tenant.home.run(&["plan", "-f", "/nowhere.yaml"]).fails(2, "REQ_001");
    assert_eq!(tenant.vms().len(), 0);
    let schema: Value = serde_json::from_str(&tenant.home.run(&["schema"]).ok().stdout()).unwrap();
    assert_eq!(schema["title"], "golemnode project");
}
