//! What stands in files, comes over HTTP, or is said by tools and guests.
use super::Seeds;
use fuzz::Record;
use fuzz::world::{self, key};
use protocol::codec::MAX_MESSAGE;
use protocol::seed::Seed;

pub fn of(target: &str) -> Seeds {
    match target {
        "text" => texts(&[
            "web-1",
            "debian:12",
            "DE",
            "EUR",
            "main",
            "x86_64",
            "vm",
            "any",
            "small",
            "4G",
            "512MiB",
            "1t",
            "1h30m",
            "7d",
            "0.02",
            "999999999999.999999999",
            "root",
            "_apt",
            "libvirt",
            "host-1.example",
            &key(1).peer_id().to_string(),
            &"ab".repeat(16),
            &"0f".repeat(32),
            "a\u{1b}[2J\u{202e}\nb\t",
        ]),
        "mesh_codec" => vec![
            vec![0, 0, 0, 3, 1, 2, 3],
            vec![0, 0, 0, 0, 2, 1, 1],
            vec![0, 0, 0, 9, 1],
            (MAX_MESSAGE as u32 + 1).to_be_bytes().to_vec(),
            vec![1],
            vec![2],
            vec![3],
            vec![4],
        ],
        "addresses" => addresses(),
        "settings" => settings(),
        "api_requests" => requests(),
        "api_answers" => answers(),
        "manifest" => manifests(),
        "checksums" => checksums(),
        "catalogue" => catalogue(),
        "disk_info" => texts(&[
            r#"{"format":"qcow2","virtual-size":67108864,"format-specific":{"type":"qcow2","data":{"compat":"1.1","corrupt":false}}}"#,
            r#"{"format":"raw","virtual-size":1048576}"#,
            r#"{"format":"qcow2","virtual-size":1,"backing-filename":"/etc/shadow"}"#,
            r#"{"format":"qcow2","virtual-size":1,"format-specific":{"data":{"data-file":"/etc/shadow","data-file-raw":true}}}"#,
            r#"{"format":"qcow2","virtual-size":1,"encrypted":true}"#,
        ]),
        "raw_disk" => disks(),
        "http_headers" => headers(),
        "guest_answers" => guest_answers(),
        "ssh_server" => servers(),
        "seed" => seeds(),
        other => panic!("no seeds for {other}"),
    }
}

fn texts(texts: &[&str]) -> Seeds {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn addresses() -> Seeds {
    let id = key(1).peer_id();
    let mut all = texts(&[
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/udp/4001/quic-v1",
        "/dns4/example.org/tcp/1",
        "/dnsaddr/example.org",
        &format!("/ip4/192.0.2.1/udp/9/quic-v1/p2p/{id}"),
        &format!("/ip4/192.0.2.1/tcp/9/p2p/{id}/p2p-circuit"),
        "/ip4/0.0.0.0/tcp/0",
    ]);
    // 4: ip4, 6: tcp, 41: ip6, 273: udp, 460: quic-v1, 53: dns.
    let tcp = [4, 203, 0, 113, 1, 6, 0x0f, 0xa1];
    let mut quic = vec![41];
    quic.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x91, 0x02, 0x0f, 0xa1, 0xcc, 0x03]);
    let named = [&[53, 3][..], b"a.b", &[6, 0, 80]].concat();
    for by in 0..3 {
        all.push(Record::default().u8(by).chunk(&tcp).chunk(&quic).chunk(&named).chunk(&[4, 127, 0, 0, 1, 6, 0, 1]).0);
    }
    all
}

fn settings() -> Seeds {
    let id = key(1).peer_id();
    texts(&[
        "country = \"DE\"\nprice_per_hour = \"0.02\"\noffer_memory = \"4G\"\nmax_vms = 3\nmdns = false\novercommit_cpu = 2\n",
        &format!(
            "network = \"test\"\nlisten = [\"/ip4/0.0.0.0/tcp/0\"]\nbootstrap = [\"a\", \"b\"]\nallow = [\"{id}\"]\n"
        ),
        "name = \"n\"\nbackend = \"memory\"\naccel = \"kvm\"\nadvert_interval = \"120s\"\nmax_lease = \"7d\"\ngrace = \"0s\"\n",
        "cpu_threshold = 90\nmin_cpus = 1\nmin_disk = \"1G\"\ndefault_image = \"tiny\"\ncurrency = \"USD\"\n",
        "\nmax_vm = 3",
        "a = [",
        "[provider]\nname = \"x\"\n",
    ])
}

fn requests() -> Seeds {
    let create = r#"{"name":"web","resources":{"cpus":1,"memory_mib":1024,"disk_gib":10},"image":"tiny","duration_s":3600,"ports":[80],"isolation":"any","timeout_s":60,"wait":true,"ssh_key":{"public":"ssh-ed25519 AAAA","identity_file":null}}"#;
    let call = |method: u8, path: &str, body: &str| {
        Record::default().u8(method).chunk(path.as_bytes()).bytes(body.as_bytes()).0
    };
    let id = key(1).peer_id();
    let mut all = vec![
        call(1, "/api/v1/vms", create),
        call(1, "/api/v1/vms/web/action", r#"{"action":"stop","force":true}"#),
        call(1, "/api/v1/node/dial", r#"{"addrs":["/ip4/192.0.2.1/tcp/1"]}"#),
        call(1, "/api/v1/node/stop", "{}"),
        call(1, "/api/v1/tunnels?vm=web&port=22", ""),
        call(1, "/api/v1/images/rescan", "{}"),
        call(2, "/api/v1/vms/web", ""),
        call(3, "/api/v1/vms", ""),
    ];
    for path in [
        "/healthz",
        "/api/v1/node",
        "/api/v1/node/peers",
        "/api/v1/vms",
        "/api/v1/vms/web?wait_for=running&timeout_s=1",
        "/api/v1/leases",
        "/api/v1/leases/web%2F..",
        "/api/v1/events?after=1&limit=9",
        "/api/v1/providers?cpus=2&memory_mib=1024&country=DE&arch=x86_64&max_price=0.02&image=debian%3A12&isolation=any&sort=price&limit=3",
        &format!("/api/v1/providers/{id}"),
        "/nowhere",
    ] {
        all.push(call(0, path, ""));
    }
    all
}

fn answers() -> Seeds {
    let id = key(1).peer_id();
    let resources = r#"{"cpus":1,"memory_mib":1024,"disk_gib":10}"#;
    let vm = format!(
        r#"{{"id":"x","name":"web","status":"running","provider":"{id}","image":"tiny","cpus":1,"memory_mib":1024,"disk_gib":10,"lease":null,"ssh":null,"isolation":"emulated","egress":"none","created_at":"t","timings_ms":{{"discover":1,"quote":1,"lease":1,"provision":1,"boot":1,"total":1}}}}"#
    );
    texts(&[
        &format!(
            r#"{{"peer_id":"{id}","version":"1","network":"main","roles":[],"listen_addrs":[],"external_addrs":[],"reachability":"unknown","peers":1,"board":{{"adverts":1,"shards":1}},"provider":null,"uptime_s":1}}"#
        ),
        &format!(
            r#"[{{"peer_id":"{id}","addrs":[],"agent":null,"latency_ms":1,"direction":"inbound","connected_s":1}}]"#
        ),
        &format!(
            r#"[{{"peer_id":"{id}","name":null,"country":"DE","arch":"x86_64","backend":"libvirt","isolation":"hardware","egress":"none","free":{resources},"largest":{resources},"price_per_hour":"0.02","currency":"EUR","images":["tiny"],"expires_at":"t","latency_ms":null,"score":0.5}}]"#
        ),
        &format!("[{vm}]"),
        &format!(r#"{{"event":"done","vm":{vm}}}"#),
        r#"{"event":"stage","stage":"boot","message":"m","elapsed_ms":1}"#,
        r#"{"event":"failed","error":{"code":"RES_003","message":"m"}}"#,
        r#"[{"id":1,"time":"t","type":"vm","severity":"info","message":"m","subject":null,"details":{"a":[1.5]}}]"#,
        &format!(
            r#"{{"advertised":false,"reason":"it is busy","backend":"libvirt","isolation":"emulated","egress":"none","offer":{resources},"free":{resources},"leases":1,"max_vms":10,"images":["tiny"],"price_per_hour":"0","currency":"EUR","draining":true,"cpu_threshold":90,"memory_threshold":85,"disk_threshold":90,"host":{{"cpus":2,"cpu_percent":1.5,"guests_cpu_percent":0.5,"memory_percent":88.0,"memory_bytes":1,"swap_percent":0.0,"swap_bytes":0,"disk_percent":5.0,"disk_bytes":1,"disk_read_per_s":1,"disk_written_per_s":1,"net_received_per_s":1,"net_sent_per_s":1}},"vms":[{{"lease_id":"00000000000000000000000000000001","cpu_s":1,"memory_bytes":1,"disk_bytes":1,"disk_read_bytes":null,"disk_written_bytes":1}}]}}"#
        ),
        &format!(
            r#"[{{"peer_id":"{id}","tier":"pro","limits":{{"vms":3,"cpus":4,"memory_mib":8192}},"used":{{"vms":1,"resources":{resources}}}}}]"#
        ),
        r#"{"error":{"code":"AUTH_001","message":"m","hint":"h","request_id":"r","timestamp":"t"}}"#,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\nSSH-2.0-x\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 56\r\n\r\n{\"error\":{\"code\":\"VM_002\",\"message\":\"m\",\"request_id\":\"r\",\"timestamp\":\"t\"}}",
    ])
}

fn manifests() -> Seeds {
    let digest = "ab".repeat(32);
    let disk = format!(
        r#"{{"file":"disk.qcow2","sha256":"{digest}","format":"qcow2","virtual_size_bytes":1073741824,"size":5}}"#
    );
    texts(&[
        r#"{"name":"tiny","arch":"x86_64","disk":"disk.qcow2","kernel":"vmlinuz","initrd":"initrd.img","cmdline":"root=/dev/vda console=ttyS0","default_user":"root","features":["no-cloud"]}"#,
        r#"{"name":"debian:12","arch":"aarch64","disk":"disk.raw","default_user":"debian"}"#,
        r#"{"name":"x","arch":"x86_64","disk":"../disk","default_user":"root"}"#,
        &format!(r#"{{"name":"debian:12","arch":"x86_64","disk":{disk},"default_user":"debian","features":[]}}"#),
        &format!(
            r#"{{"name":"tiny","arch":"x86_64","disk":{disk},"kernel":{{"file":"vmlinuz","sha256":"{digest}","size":9}},"cmdline":"quiet","default_user":"root"}}"#
        ),
        r#"{"url":"https://x/y","expected":"sha256 ab","validator":"\"v1\"","total":10}"#,
    ])
}

fn checksums() -> Seeds {
    let (a, b) = ("a1".repeat(32), "b2".repeat(64));
    texts(&[
        &a,
        &b,
        &format!("one.img\n{a} *one.img\n{b}  two.qcow2\n"),
        &format!("two.qcow2\n{a} *one.img\n{b}  two.qcow2\n"),
        &format!("three.img\n# SHA256 of three\nSHA256 (three.img) = {a}\n"),
        &format!("four\n{a}  ./four\n"),
        &format!("x\n{a}  x\n{}  x\n", "c3".repeat(32)),
    ])
}

fn catalogue() -> Seeds {
    let entry = "[[image]]\nname = \"debian:12\"\narch = \"amd64\"\nurl = \"https://example.org/d.raw\"\nuser = \"me\"\nformat = \"raw\"\n";
    texts(&[
        &format!("{entry}sha512 = \"{}\"\n", "ab".repeat(64)),
        &format!("{entry}sha256 = \"{}\"\n", "ab".repeat(32)),
        &format!("{entry}checksums = \"https://example.org/SHA256SUMS\"\n"),
        &format!("{}checksums = \"http://127.0.0.1/SUMS\"\n", entry.replace("https://example.org", "http://[::1]:80")),
        &format!(
            "{entry}checksums = \"https://x/y\"\n{}checksums = \"https://x/z\"\n",
            entry.replace("amd64", "arm64")
        ),
        "[image",
    ])
}

fn disks() -> Seeds {
    let disk = |kernel: u8, size: u64, at: usize, mark: &[u8]| {
        let mut head = vec![0; at];
        head.extend(mark);
        Record::default().u8(kernel).u64(size).bytes(&head).0
    };
    vec![
        disk(0, 1 << 20, 510, &[0x55, 0xaa]),
        disk(0, 1 << 20, 512, b"EFI PART"),
        disk(0, 1 << 30, 0x438, &[0x53, 0xef]),
        disk(0, 1 << 20, 0, b"XFSB"),
        disk(1, 1 << 20, 0, b"whatever"),
        disk(0, (1 << 20) + 1, 510, &[0x55, 0xaa]),
        disk(1, 1 << 20, 0, b"\xfd7zXZ\0"),
        disk(1, 1 << 20, 257, b"ustar"),
        disk(0, 7, 0, b"myhost\n"),
    ]
}

fn headers() -> Seeds {
    let said = |from: u64, known: u64, lines: &str| Record::default().u64(from).u64(known).bytes(lines.as_bytes()).0;
    vec![
        said(5, 10, "content-range: bytes 5-9/10\netag: \"v1\"\ncontent-length: 5\n"),
        said(5, 0, "content-range: bytes 5-9/*\nlast-modified: Tue, 14 Nov 2023 22:13:20 GMT\n"),
        said(5, 10, "content-range: bytes 0-9/10\netag: W/\"v1\"\n"),
        said(0, 0, "content-length: 18446744073709551615\naccept-ranges: none\netag: \"v\"\n"),
    ]
}

fn guest_answers() -> Seeds {
    // An OpenSSH private key's clear part: magic, none, none, no options, one key, its blob.
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAABGFiY2Q=\n-----END OPENSSH PRIVATE KEY-----\n";
    texts(&[
        "{\"return\":\"aGVsbG8=\"}",
        "{\"return\":\"\"}",
        "Hub -1 (n0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    22     0     0\n",
        "<domain type='kvm' id='1'>\n<name>x</name>\n</domain>",
        "golemnode-000102030405060708090a0b0c0d0e0f",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here",
        private,
    ])
}

fn servers() -> Seeds {
    let packet = |payload: &[u8]| {
        let padding = 12 - payload.len() % 8;
        let length = (1 + payload.len() + padding) as u32;
        let begun = Record::default().bytes(&length.to_be_bytes()).u8(padding as u8);
        begun.bytes(payload).bytes(&vec![0; padding]).0
    };
    let key = [&[31, 0, 0, 0, 4][..], b"blob", &[0, 0, 0, 0]].concat();
    let hello = b"SSH-2.0-OpenSSH_9.2\r\n".to_vec();
    let kexinit = packet(&[20; 40]);
    vec![
        [hello.clone(), kexinit.clone(), packet(&key)].concat(),
        [b"motd\r\n".to_vec(), hello.clone(), packet(&[2, 0]), kexinit.clone(), packet(&[4]), packet(&key)].concat(),
        [hello.clone(), packet(&key)].concat(),
        [hello.clone(), kexinit.clone(), packet(&[1, 0, 0, 0, 2])].concat(),
        [hello.clone(), kexinit, packet(&[31, 0xff, 0xff, 0xff, 0xff])].concat(),
        [hello, b"\xff\xff\xff\xff".to_vec()].concat(),
        b"SSH-1.5-x\r\n".to_vec(),
    ]
}

fn seeds() -> Seeds {
    let plain: Seed = Seed {
        hostname: "web".parse().expect("a name"),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
        host_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx: \"y\"\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        user_data: None,
    };
    let with = |data: &str| Seed { user_data: Some(data.into()), ..plain.clone() }.encode();
    vec![
        world::tenants_seed(),
        plain.encode(),
        with("#cloud-config\npackages: [git]\nruncmd:\n  - [sh, -c, 'echo hi']\n"),
        with("#!/bin/sh\necho hi\n"),
        with("#cloud-config\nssh_keys: {ed25519_private: x}\n"),
        with("#include\nhttp://example.com\n"),
        Seed { authorized_keys: vec!["ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTI= a b".into(); 3], ..plain.clone() }
            .encode(),
    ]
}
