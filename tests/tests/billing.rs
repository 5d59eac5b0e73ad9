//! A VM that costs money, from the credit that was granted to the receipt that both have signed.
use serde_json::Value;
use tests::{Home, PATIENCE, eventually};

const PROVIDER: &str =
    "min_memory = \"128M\"\nmin_disk = \"1G\"\nprice_per_hour = \"0.36\"\ncurrency = \"EUR\"\noffer_cpus = 4\n";

fn seconds_until(text: &Value) -> i64 {
    // Both ends of the comparison come from one clock; days and hours are enough of a calendar here.
    let text = text.as_str().expect("a time");
    let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().expect("a number");
    part(8..10) * 86_400 + part(11..13) * 3600 + part(14..16) * 60 + part(17..19)
}

#[test]
fn a_priced_vm_needs_credit_is_renewed_and_ends_with_a_receipt_that_both_have_signed() {
    let (p, r) = (Home::new(), Home::new());
    p.config(PROVIDER);
    let provider = p.node(&["--provide", "--backend", "memory", "--network", "test"]);
    let node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let me = node.peer_id();
    let create = ["vm", "create", "web", "--isolation", "any", "--for", "1h"];
    let refused = r.run(&create).fails(4, "RES_004");
    assert!(refused.stderr().contains("this needs a credit of 0.36 EUR; left are 0 EUR"), "{}", refused.stderr());
    assert!(refused.stderr().contains("credit grant"), "{}", refused.stderr());
    p.run(&["credit", "grant", &me, "1e3"]).fails(2, "REQ_001");
    let granted = p.json(&["credit", "grant", &me, "12.50"]);
    assert_eq!((&granted[0]["granted"], &granted[0]["left"]), (&Value::from("12.5"), &Value::from("12.5")));
    let vm = r.json(&create);
    assert_eq!(vm["status"], "running");
    assert_eq!(r.json(&["receipt", "list"]), serde_json::json!([]), "nothing is due yet");
    r.run(&["receipt", "show", "web"]).fails(3, "RES_001");

    let renewed = r.json(&["vm", "renew", "web", "--for", "2h"]);
    let (before, after) = (&vm["lease"]["expires_at"], &renewed["lease"]["expires_at"]);
    let longer = seconds_until(after) - seconds_until(before);
    // Or a month ends between the two.
    assert!(longer == 7200 || longer < 0, "{before} {after}");
    let file = r.path().join("lease.json");
    std::fs::write(&file, r.run(&["--json", "lease", "show", "web"]).ok().stdout()).unwrap();
    let verified = r.json(&["lease", "verify", file.to_str().unwrap()]);
    assert_eq!(&verified["ends_at"], after, "the renewal stands in the lease");
    assert_eq!(p.json(&["lease", "list"])[0]["expires_at"], *after, "at the provider, too");
    r.run(&["vm", "renew", "web", "--for", "365d"]).fails(2, "REQ_001");
    r.run(&["vm", "renew", "none", "--for", "1h"]).fails(3, "VM_002");

    let lease = vm["lease"]["id"].as_str().unwrap().to_owned();
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    let receipt = |home: &Home| {
        let receipts = home.json(&["receipt", "list"]);
        receipts.as_array().into_iter().flatten().find(|receipt| receipt["lease_id"] == *lease).cloned()
    };
    let signed = |home: &Home| receipt(home).filter(|receipt| receipt["countersigned"] == true);
    let theirs = eventually("the provider has it countersigned", PATIENCE, || signed(&p));
    let ours = eventually("the requestor keeps it", PATIENCE, || signed(&r));
    for field in ["seconds", "total", "number", "last"] {
        assert_eq!(theirs[field], ours[field], "{field}");
    }
    assert_eq!((&ours["last"], &ours["role"]), (&Value::from(true), &Value::from("requestor")));
    std::fs::write(&file, r.run(&["--json", "receipt", "show", &lease]).ok().stdout()).unwrap();
    let said = r.run(&["receipt", "verify", file.to_str().unwrap()]).ok().stdout();
    assert!(said.contains("signed by both sides"), "{said}");
    let mut document: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let body = document["receipt"]["body"].as_str().unwrap();
    let last = if body.ends_with('0') { "1" } else { "0" };
    document["receipt"]["body"] = Value::from(format!("{}{last}", &body[..body.len() - 1]));
    std::fs::write(&file, document.to_string()).unwrap();
    assert_eq!(r.run(&["receipt", "verify", file.to_str().unwrap()]).code(), 4, "a changed bit is refused");
    let account = p.json(&["credit", "show", &me]);
    assert_eq!(account[0]["used"], theirs["total"]);
    drop(node);
    drop(provider);
    let _again = p.node(&["--provide", "--backend", "memory", "--network", "test"]);
    assert_eq!(p.json(&["credit", "show", &me]), account, "all of it is on the disk");
    assert_eq!(receipt(&p), Some(theirs));
}
