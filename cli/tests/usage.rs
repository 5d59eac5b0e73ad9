//! Wrong input: one clear line, the right exit code, a hint, and no node started for it.
use super::{golemnode, stderr, stdout};

/// Arguments, exit code, how the error line begins, and a part of its hint.
const WRONG: &[(&str, i32, &str, &str)] = &[
    ("", 2, "error[REQ_001]: which command?", "golemnode --help"),
    ("xyzzy", 2, "error[REQ_001]: unrecognized subcommand 'xyzzy'", "golemnode --help"),
    ("vm", 2, "error[REQ_001]: which command?", "golemnode vm --help"),
    ("vm creat web", 2, "error[REQ_001]: unrecognized subcommand 'creat'", "create"),
    ("vm create", 2, "error[REQ_001]: the following required arguments were not provided: <NAME>", "vm create --help"),
    ("vm create Web", 2, "error[REQ_001]: <NAME>: 'Web' is not a VM name", "lower-case"),
    ("vm create ../x", 2, "error[REQ_001]: <NAME>: '../x' is not a VM name", "lower-case"),
    ("vm create web --memory 4", 2, "error[REQ_001]: --memory <SIZE>: '4' is not a size", "512M"),
    ("vm create web --memory 4X", 2, "error[REQ_001]: --memory <SIZE>: '4X' is not a size", "512M"),
    ("vm create web --memory 64M", 2, "error[REQ_001]: a VM has at least 128M of memory", ""),
    ("vm create web --disk 512M", 2, "error[REQ_001]: --disk <SIZE>: '512M' is not a whole number of GiB", "20G"),
    ("vm create web --cpus 0", 2, "error[REQ_001]: a VM has 1 to 64 CPUs, not 0", ""),
    ("vm create web --cpus 65", 2, "error[REQ_001]: a VM has 1 to 64 CPUs, not 65", ""),
    ("vm create web --cpus two", 2, "error[REQ_001]: invalid value 'two' for '--cpus <N>'", "vm create --help"),
    ("vm create web --size huge", 2, "error[REQ_001]: --size <SIZE>: no size is named 'huge'", "small"),
    ("vm create web --size small --cpus 2", 2, "error[REQ_001]: the argument '--size <SIZE>' cannot be used", "--help"),
    ("vm create web --memorry 4G", 2, "error[REQ_001]: unexpected argument '--memorry' found", "'--memory'"),
    ("vm create web --country de", 2, "error[REQ_001]: --country <CC>: 'de' is not a country", "capitals"),
    ("vm create web --max-price=-1", 2, "error[REQ_001]: --max-price <P>: '-1' is not an amount of money", "0.02"),
    ("vm create web --for ever", 2, "error[REQ_001]: --for <DURATION>: 'ever' is not a duration", "30m"),
    ("vm create web --timeout 0s", 2, "error[REQ_001]: --timeout", ""),
    (
        "vm create web --isolation none",
        2,
        "error[REQ_001]: --isolation <vm|any>: 'none' is not an isolation",
        "vm or any",
    ),
    ("vm create web --image ../etc", 2, "error[REQ_001]: --image <I>: '../etc' is not an image name", "ubuntu:24.04"),
    ("vm create web --provider 12D3", 2, "error[REQ_001]: --provider <PEER>: '12D3' is not a peer id", "12D3KooW"),
    ("vm create web --publish 0", 2, "error[REQ_001]: invalid value '0' for '--publish <PORT>'", "vm create --help"),
    ("vm create web --ssh-key /absent", 2, "error[REQ_001]: no key file and no key named '/absent'", "key generate"),
    ("vm create web --cloud-init /absent", 2, "error[REQ_001]: cannot read /absent", "name a file"),
    ("vm wait web flying", 2, "error[REQ_001]: <STATE>: 'flying' is not a state of a VM", "running"),
    ("vm exec web", 2, "error[REQ_001]: the following required arguments were not provided: <CMD>...", "vm exec"),
    ("vm proxy web 70000", 2, "error[REQ_001]: invalid value '70000' for '[PORT]'", "vm proxy --help"),
    ("vm list --format xml", 2, "error[REQ_001]: invalid value 'xml' for '--format <FORMAT>'", ""),
    ("vm list --network Main", 2, "error[REQ_001]: --network <NAME>: 'Main' is not a network name", "lower-case"),
    ("provider list --sort fame", 2, "error[REQ_001]: invalid value 'fame' for '--sort <SORT>'", ""),
    ("provider list --memory lots", 2, "error[REQ_001]: --memory <SIZE>: 'lots' is not a size", "512M"),
    ("provider info me", 2, "error[REQ_001]: <PEER>: 'me' is not a peer id", "provider list"),
    (
        "node run --backend libvirt",
        2,
        "error[REQ_001]: the following required arguments were not provided: --provide",
        "",
    ),
    ("node run --provide --backend cloud9", 2, "error[REQ_001]: no backend is named 'cloud9'", "memory"),
    ("node stop", 3, "error[RES_003]: no node runs on", "--home"),
    ("image info absent", 3, "error[IMG_001]: no image 'absent' here", "image list"),
    ("image remove absent", 3, "error[IMG_001]: no image 'absent' here", "image list"),
    ("image import /absent.qcow2", 2, "error[REQ_001]: /absent.qcow2 does not exist", "bundle"),
    ("image import /etc/hostname", 2, "error[REQ_001]: 'hostname' is no disk image: it has ", "raw or qcow2"),
    ("image import /dev/null --sha256 12", 2, "error[REQ_001]: --sha256 <HEX>: not a SHA-256 digest", "hex"),
    (
        "image import x --cmdline quiet",
        2,
        "error[REQ_001]: the following required arguments were not provided: --kernel",
        "",
    ),
    ("image pull ubuntu:24.4", 3, "error[IMG_001]: the catalogue has no image 'ubuntu:24.4'", "'ubuntu:24.04'"),
    ("image pull nosuch", 3, "error[IMG_001]: the catalogue has no image 'nosuch'", "image list --catalogue"),
    ("image pull debian:12 --arch mips", 2, "error[REQ_001]: --arch <A>: 'mips' is not an architecture", "aarch64"),
    (
        "image pull x --url https://a.example/x.img",
        2,
        "error[REQ_001]: the following required arguments were not provided: <--sha256 <HEX>|--sha512 <HEX>|",
        "",
    ),
    (
        "image pull x --url http://a.example/x --checksums http://a.example/SUMS",
        2,
        "error[REQ_001]: x: http://a.example/x can be forged on its way",
        "sha256",
    ),
    ("image pull x --url https://a.example/x --sha256 12", 2, "error[REQ_001]: sha256: not a checksum", "64 hex"),
    ("image pull x --url nowhere --sha256 12", 2, "error[REQ_001]: 'nowhere' is not an address", ""),
    ("key generate ../x", 2, "error[REQ_001]: <NAME>: '../x' is not a key name", "letters"),
    ("key remove absent", 3, "error[RES_001]: no key is named 'absent'", "key list"),
    ("lease verify /absent", 2, "error[REQ_001]: cannot read /absent", "stdin"),
    ("-q -v vm list", 2, "error[REQ_001]: the argument '--quiet' cannot be used with '--verbose...'", ""),
    ("completions tcsh", 2, "error[REQ_001]: invalid value 'tcsh' for '<SHELL>'", ""),
];

#[test]
fn wrong_input_is_answered_in_one_line_with_its_code_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for (args, exit, begins, hint) in WRONG {
        let words: Vec<&str> = args.split_whitespace().collect();
        let output = golemnode(dir.path(), &words);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(*exit), "'{args}' said {said}");
        let mut lines = said.lines();
        assert!(lines.next().unwrap_or_default().starts_with(begins), "'{args}' said {said}");
        let hinted = lines.find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default();
        assert!(hinted.contains(hint), "'{args}' hinted {hinted}");
        assert_eq!(stdout(&output), "", "'{args}'");
        // Nothing that is wrong starts a node.
        assert!(!dir.path().join("api.sock").exists(), "'{args}' started a node");
    }
}

#[test]
fn with_json_the_error_is_an_object() {
    let dir = tempfile::tempdir().unwrap();
    for args in
        [&["--json", "vm", "create", "Web"][..], &["vm", "xyzzy", "--format", "json"], &["node", "stop", "--json"]]
    {
        let output = golemnode(dir.path(), args);
        let said: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        let error = &said["error"];
        for field in ["code", "message", "hint", "request_id", "timestamp"] {
            assert!(error[field].is_string(), "{args:?}: {field} in {said}");
        }
        assert_eq!(output.status.code(), Some(if error["code"] == "RES_003" { 3 } else { 2 }));
    }
}

#[test]
fn help_and_version_are_answers() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["help"], &["vm", "--help"], &["vm", "create", "-h"], &["--version"], &["version"]] {
        let output = golemnode(dir.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("golemnode") && output.stderr.is_empty(), "{args:?}");
    }
    let version = golemnode(dir.path(), &["version", "--json"]);
    let version: serde_json::Value = serde_json::from_str(&stdout(&version)).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_wrong_setting_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "\nmax_vm = 3\n").unwrap();
    for args in [&["node", "run"][..], &["vm", "list"]] {
        let output = golemnode(dir.path(), args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("config.toml:2: no setting is named 'max_vm'"), "{said}");
        assert!(said.contains("hint: did you mean 'max_vms'?"), "{said}");
    }
}
