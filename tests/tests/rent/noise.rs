//! A guest that takes all it can leaves its neighbour and the node usable. How much it is felt `make bench` measures;
//! here, beside whatever else this machine does, only what is broken is.
use super::provider;
use tests::noise::{Neighbours, Plan};
use tests::{Home, guest};

const PLAN: Plan = Plan { pairs: 4, ssh: 5, api: 25 };
/// Of the median. The goal is twice, or 10 ms.
const TIMES: f64 = 20.0;
const MORE_MS: f64 = 1000.0;

#[test]
fn a_loud_guest_leaves_its_neighbour_and_the_node_usable() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _node = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let mut broken = Vec::new();
    for outcome in Neighbours::new(&p, &r).hear(&PLAN) {
        eprintln!("{outcome}");
        broken.extend(outcome.beyond(TIMES, MORE_MS, &[50.0]));
    }
    assert!(broken.is_empty(), "{broken:#?}");
    for vm in ["loud", "quiet"] {
        r.run(&["vm", "destroy", vm, "--yes"]).ok();
    }
    super::nothing_left(&p);
}
