//! Many more who want a VM than there are. `make bench BENCH=overload` does it with two hundred, and looks at the times.
use std::time::Duration;
use tests::crowd::{Plan, run};
use tests::{Home, bargain};

const SLOTS: usize = 3;
const TENANTS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_asks_keeps_nobody_from_renting_and_nothing_is_sold_twice() {
    let home = Home::new();
    home.config("min_memory = \"128M\"\nmin_disk = \"1G\"\nmax_vms = 3\ndefault_image = \"tiny\"\n");
    let node = home.node(&["--provide", "--backend", "memory", "--network", "test"]);
    for n in 0..TENANTS {
        let tier = ["none", "free", "pro"][n as usize % 3];
        home.run(&["quota", "set", &bargain::key(n).peer_id().to_string(), "--tier", tier]).ok();
    }
    let plan = Plan {
        addr: node.addr(),
        network: "test".parse().unwrap(),
        tenants: TENANTS,
        askers: 24,
        lasts: Duration::from_secs(15),
        seed: 1,
    };
    let outcome = run(plan, SLOTS).await;
    let slowest = outcome.refused_ms.last();
    println!(
        "{} had, {:?} refused, the slowest in {slowest:?} ms, free for {} ms",
        outcome.had, outcome.refused, outcome.idle_ms
    );
    assert_eq!(outcome.most, SLOTS, "what there is was sold, and no more");
    assert!(outcome.had > SLOTS as u32, "{} were had", outcome.had);
    assert_eq!((outcome.without_retry, &outcome.unanswered), (0, &Default::default()));
    let codes: Vec<&str> = outcome.refused.keys().map(String::as_str).collect();
    assert!(
        !codes.is_empty() && codes.iter().all(|code| ["RES_002", "RES_004", "RES_005"].contains(code)),
        "{codes:?}"
    );
    // It has told nothing else.
    assert_eq!(home.json(&["provider", "status"])["leases"], 0);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
