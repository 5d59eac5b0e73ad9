//! The next best is taken, and the tenant reads why.
use super::{PROVIDER, TINY, nothing_left};
use std::process::{Child, Stdio};
use tests::hand::liar::{Liar, Lie};
use tests::{Home, Node, PATIENCE, Ran, eventually, guest};

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

/// Four who are cheap and large and lie, each in its own way, and a dear one who has a VM.
#[test]
fn who_lies_is_passed_over_with_a_line_that_says_how() {
    let Some(bundle) = guest("tiny") else { return };
    let (good, r) = (Home::new(), Home::new());
    let tenant = r.node(&["--network", "test"]);
    good.config(&format!("{PROVIDER}price_per_hour = \"0.5\"\nprepaid = false\n"));
    good.import(&bundle);
    let taken = good.node(&["--provide", "--network", "test", "--bootstrap", &tenant.addr()]);
    let (addr, me) = (tenant.addr(), tenant.peer_id().parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut liars = Vec::new();
    for lie in [Lie::Boasts, Lie::GivesLess, Lie::Forgets, Lie::IsSilent] {
        let liar = runtime.block_on(Liar::join(lie, &addr, me, &"test".parse().unwrap(), "tiny"));
        liars.push((lie, liar.peer_id()));
        runtime.spawn(liar.lie());
    }
    eventually("five are on the board", PATIENCE, || {
        (r.json(&["provider", "list"]).as_array().map(Vec::len) == Some(5)).then_some(())
    });
    let mut args = vec!["vm", "create", "web", "--timeout", "2m"];
    args.extend(TINY);
    let created = r.run(&args).ok();
    let said = created.stderr();
    let vm = r.json(&["vm", "info", "web"]);
    assert_eq!(vm["provider"].as_str(), Some(taken.peer_id().as_str()), "{said}");
    for (lie, peer) in liars {
        let code = match lie {
            Lie::Boasts => "RES_002",
            Lie::GivesLess => "AUTH_001",
            Lie::Forgets => "RES_003",
            // It was asked beside others that did answer.
            Lie::IsSilent => continue,
        };
        let out = format!("provider {} is out ({code}: ", peer.short());
        assert!(said.contains(&out), "{lie:?}: {out}…: {said}");
    }
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    nothing_left(&good);
}

fn signal(node: &Node<'_>, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &node.pid().to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name}");
}

/// A node of its own network: a tenant, a cheap provider, and perhaps a dear one.
fn creating(r: &Home) -> Child {
    let mut args = vec!["vm", "create", "web", "--timeout", "4m"];
    args.extend(TINY);
    r.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn status(r: &Home) -> Option<String> {
    r.json(&["vm", "list"])[0]["status"].as_str().map(str::to_owned)
}

#[test]
fn one_that_falls_silent_while_it_makes_the_vm_is_replaced_and_gives_back_when_it_wakes() {
    let Some(bundle) = guest("tiny") else { return };
    let (sleepy, good, r) = (Home::new(), Home::new(), Home::new());
    let tenant = r.node(&["--network", "test"]);
    for (home, price) in [(&sleepy, "0.01"), (&good, "0.5")] {
        home.config(&format!("{PROVIDER}price_per_hour = \"{price}\"\nprepaid = false\n"));
        home.import(&bundle);
    }
    let via = tenant.addr();
    let join = ["--provide", "--network", "test", "--bootstrap", &via];
    let (sleeper, taken) = (sleepy.node(&join), good.node(&join));
    eventually("two are on the board", PATIENCE, || {
        (r.json(&["provider", "list"]).as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let create = creating(&r);
    eventually("the cheap one makes it", PATIENCE, || {
        status(&r).filter(|status| matches!(status.as_str(), "provisioning" | "booting"))
    });
    signal(&sleeper, "-STOP");
    let created = Ran { args: "vm create".into(), output: create.wait_with_output().unwrap() }.ok();
    let said = created.stderr();
    assert!(said.contains("is out (NET_001: it has said nothing for 2"), "{said}");
    assert_eq!(r.json(&["vm", "info", "web"])["provider"].as_str(), Some(taken.peer_id().as_str()), "{said}");
    signal(&sleeper, "-CONT");
    eventually("what it had let is given back", PATIENCE, || {
        (sleeper.status()["provider"]["leases"] == 0).then_some(())
    });
    nothing_left(&sleepy);
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    nothing_left(&good);
}

/// There is nobody else: it is waited for, and the user reads so.
#[test]
fn the_only_one_is_waited_for_while_it_is_silent() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = super::provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let create = creating(&r);
    eventually("it is being made", PATIENCE, || {
        status(&r).filter(|status| matches!(status.as_str(), "provisioning" | "booting"))
    });
    signal(&node, "-STOP");
    let began = std::time::Instant::now();
    eventually("the silence has lasted a minute", std::time::Duration::from_secs(90), || {
        (began.elapsed() >= std::time::Duration::from_secs(60)).then_some(())
    });
    signal(&node, "-CONT");
    let created = Ran { args: "vm create".into(), output: create.wait_with_output().unwrap() }.ok();
    let said = created.stderr();
    assert!(said.contains("nobody else fits, so it is waited for"), "{said}");
    assert_eq!(r.json(&["vm", "list"]).as_array().map(Vec::len), Some(1));
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    nothing_left(&p);
}
