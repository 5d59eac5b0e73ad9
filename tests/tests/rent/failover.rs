//! The next best is taken, and the tenant reads why.
use super::{PROVIDER, TINY, nothing_left};
use tests::{Home, PATIENCE, eventually, guest};

#[test]
fn one_refuses_one_fails_after_the_lease_and_the_third_is_taken() {
    let Some(bundle) = guest("tiny") else { return };
    let (refuses, fails, good, r) = (Home::new(), Home::new(), Home::new(), Home::new());
    let tenant = r.node(&["--network", "test"]);
    let (via, me) = (tenant.addr(), tenant.peer_id());
    for (home, extra) in [
        (&refuses, format!("price_per_hour = \"0.001\"\nprepaid = false\ndeny = [\"{me}\"]\n")),
        (&fails, "price_per_hour = \"0.01\"\nprepaid = false\n".to_owned()),
        (&good, "price_per_hour = \"0.5\"\nprepaid = false\n".to_owned()),
    ] {
        home.config(&format!("{PROVIDER}{extra}"));
        home.import(&bundle);
    }
    // Its manifest still offers the image; only the making shows that the disk is gone.
    std::fs::remove_file(fails.path().join("images/tiny/disk.qcow2")).unwrap();
    let join = ["--provide", "--network", "test", "--bootstrap", &via];
    let _refusing = refuses.node(&join);
    let failing = fails.node(&join);
    let taken = good.node(&join);
    eventually("three are on the board", PATIENCE, || {
        (r.json(&["provider", "list"]).as_array().map(Vec::len) == Some(3)).then_some(())
    });
    let mut args = vec!["vm", "create", "web"];
    args.extend(TINY);
    let created = r.run(&args).ok();
    let said = created.stderr();
    assert!(said.contains("AUTH_005"), "who refused is said: {said}");
    assert!(said.contains("VM_001") || said.contains("is out"), "who failed is said: {said}");
    let vm = r.json(&["vm", "info", "web"]);
    assert_eq!(vm["provider"].as_str(), Some(taken.peer_id().as_str()));
    // What the failed one was let is given back.
    eventually("the failed lease is over", PATIENCE, || (failing.status()["provider"]["leases"] == 0).then_some(()));
    nothing_left(&fails);
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    nothing_left(&good);
}
