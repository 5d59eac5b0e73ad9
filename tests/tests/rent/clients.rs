//! What people have already, unmodified: it finds the guests by the names in `vm ssh-config`.
use super::{PROVIDER, nothing_left};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tests::{Home, PATIENCE, eventually, guest};

const GUESTS: [&str; 3] = ["lab-1", "lab-2", "lab-3"];
const SHAPE: [&str; 8] = ["--image", "debian:12", "--cpus", "1", "--memory", "512M", "--disk", "3G"];
const BULK: usize = 200 << 20;
const PLAYBOOK: &str = "
- hosts: all
  gather_subset: [min]
  tasks:
    - assert: {that: ansible_hostname == inventory_hostname}
    - {copy: {dest: /etc/lab, content: 'of {{ inventory_hostname }}', mode: '0640'}, become: true}
    - {file: {path: /srv/lab, state: directory, owner: debian}, become: true}
    - {command: cat /etc/lab, become: true, register: said, changed_when: false}
    - assert: {that: said.stdout == 'of ' + inventory_hostname}
";

struct Lab<'a> {
    home: &'a Home,
    config: String,
}

impl Lab<'_> {
    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }
    /// A client of OpenSSH, which knows the guests from the file.
    fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", &self.config]).args(args).stdin(Stdio::null());
        command
    }
    fn ssh(&self, args: &[&str]) -> String {
        said(self.client("ssh", args).output().unwrap())
    }
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn unmodified_clients_find_the_guests_by_name() {
    let Some(bundle) = guest("debian") else { return };
    let (p, r) = (Home::new(), Home::new());
    p.config(PROVIDER);
    p.import(&bundle);
    let node = p.node(&["--provide", "--network", "test"]);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    for name in GUESTS {
        let mut args = vec!["vm", "create", name];
        args.extend(SHAPE);
        r.run(&args).ok();
    }
    let config = r.path().join("ssh_config").display().to_string();
    std::fs::write(&config, r.run(&["vm", "ssh-config"]).ok().stdout()).unwrap();
    let lab = Lab { home: &r, config };
    terminals(&lab);
    sftp(&lab);
    rsync(&lab);
    forwards(&lab);
    shared_connection(&lab);
    ansible(&lab);
    for name in GUESTS {
        r.run(&["vm", "destroy", name, "--yes"]).ok();
    }
    nothing_left(&p);
}

/// A command has a terminal where it is run from one, and where that is asked for.
fn terminals(lab: &Lab) {
    let tty = |flags: &[&str]| {
        let words = [&["vm", "exec"], flags, &["lab-1", "--", "tty"]].concat();
        lab.home.run(&words).stdout().trim().to_owned()
    };
    assert_eq!(tty(&[]), "not a tty");
    assert!(tty(&["--tty"]).starts_with("/dev/pts/"));
    let from_one = |flag: &str| {
        let exec = format!("{} vm exec {flag} lab-1 -- sh -c 'tty; exit 3'", tests::golemnode().display());
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &exec, "/dev/null"]).stdin(Stdio::null());
        let output = script.env("GOLEMNODE_HOME", lab.home.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // The terminal shows the end of script's own input, too.
        (said.trim().trim_start_matches("^@").to_owned(), output.status.code())
    };
    let (name, code) = from_one("");
    assert!(name.starts_with("/dev/pts/"), "{name}");
    assert_eq!(code, Some(3));
    assert_eq!(from_one("-T"), ("not a tty".to_owned(), Some(3)));
}

fn sftp(lab: &Lab) {
    let (batch, back) = (lab.path("batch"), lab.path("back"));
    let lines = format!("mkdir /tmp/s\nput {batch} /tmp/s/b\nchmod 600 /tmp/s/b\nget /tmp/s/b {back}\nls -l /tmp/s\n");
    std::fs::write(&batch, &lines).unwrap();
    let listed = said(lab.client("sftp", &["-b", &batch, "lab-1"]).output().unwrap());
    assert!(listed.lines().any(|line| line.starts_with("-rw-------") && line.ends_with("/tmp/s/b")), "{listed}");
    assert_eq!(std::fs::read_to_string(back).unwrap(), lines);
}

fn rsync(lab: &Lab) {
    let (local, back) = (lab.path("bulk"), lab.path("bulk-back"));
    let mut dice = <rand_chacha::ChaCha8Rng as rand_core::SeedableRng>::seed_from_u64(200);
    let mut noise = vec![0; BULK];
    rand_core::Rng::fill_bytes(&mut dice, &mut noise);
    std::fs::write(&local, &noise).unwrap();
    let shell = format!("ssh -F {}", lab.config);
    let rsync =
        |from: &str, to: &str| said(Command::new("rsync").args(["-a", "-e", &shell, from, to]).output().unwrap());
    rsync(&local, "lab-1:/var/tmp/bulk");
    let sum = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
    let here = sum(said(Command::new("sha256sum").arg(&local).output().unwrap()));
    assert_eq!(sum(lab.ssh(&["lab-1", "sha256sum /var/tmp/bulk"])), here);
    rsync("lab-1:/var/tmp/bulk", &back);
    assert!(std::fs::read(&back).unwrap() == noise, "what came back is another file");
}

/// One that answers each caller with a line.
fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut caller, _)) = listener.accept() {
            caller.write_all(b"from here\n").ok();
        }
    });
    port
}

/// What sshd in the guest says first, through a socket of this machine.
fn greeting(socket: &str) -> String {
    let mut there = eventually("the socket leads somewhere", PATIENCE, || UnixStream::connect(socket).ok());
    let mut text = [0; 8];
    there.read_exact(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

struct Ended(Child);
impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn forwards(lab: &Lab) {
    let socket = lab.path("L");
    let to_guest = format!("{socket}:127.0.0.1:22");
    let forwarding = Ended(lab.client("ssh", &["-N", "-L", &to_guest, "lab-1"]).spawn().unwrap());
    assert_eq!(greeting(&socket), "SSH-2.0-");
    drop(forwarding);
    let port = listener();
    let read = |port: u16| format!("bash -c 'cat < /dev/tcp/127.0.0.1/{port}'");
    assert_eq!(lab.ssh(&["-R", &format!("9000:127.0.0.1:{port}"), "lab-1", &read(9000)]), "from here\n");
    // Our own way of saying it.
    let remote = format!("9001:{port}");
    let mut command = lab.home.command(&["vm", "forward", "lab-1", "--remote", &remote]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let _forwarding = Ended(child);
    let heard = || Some(lab.client("ssh", &["lab-1", &read(9001)]).output().unwrap()).filter(|o| o.status.success());
    assert_eq!(said(eventually("the guest's port leads here", PATIENCE, heard)), "from here\n", "{line}");
}

/// As an editor's remote mode has it: one connection, under many commands, and ports that are added to it.
fn shared_connection(lab: &Lab) {
    let (control, socket) = (lab.path("C"), lab.path("E"));
    let path = format!("ControlPath={control}");
    let shared = |args: &[&str]| lab.ssh(&[&["-o", &path], args].concat());
    shared(&["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-f", "-N", "lab-1"]);
    eventually("the connection is there", PATIENCE, || Path::new(&control).exists().then_some(()));
    shared(&["-O", "check", "lab-1"]);
    let sshds = "pgrep -c -f 'sshd: debian@'";
    let one: Vec<String> = (0..5).map(|_| shared(&["lab-1", sshds])).collect();
    assert!(one.iter().all(|count| *count == one[0]), "each command has a connection of its own: {one:?}");
    shared(&["-O", "forward", "-L", &format!("{socket}:127.0.0.1:22"), "lab-1"]);
    assert_eq!(greeting(&socket), "SSH-2.0-");
    shared(&["-O", "exit", "lab-1"]);
}

/// A playbook on all of them; and again, which changes nothing.
fn ansible(lab: &Lab) {
    let (playbook, inventory) = (lab.path("play.yaml"), lab.path("hosts"));
    std::fs::write(&playbook, PLAYBOOK).unwrap();
    std::fs::write(&inventory, GUESTS.join("\n")).unwrap();
    for changed in [2, 0] {
        let mut play = Command::new("ansible-playbook");
        play.args(["-i", &inventory, &playbook]).env("ANSIBLE_SSH_ARGS", format!("-F {}", lab.config));
        play.env("ANSIBLE_HOME", lab.path("ansible")).stdin(Stdio::null());
        let recap = said(play.output().expect("ansible-core is installed"));
        for name in GUESTS {
            let row = recap.lines().rfind(|line| line.starts_with(name)).unwrap_or_default();
            let row: Vec<&str> = row.split_whitespace().collect();
            assert!(row.contains(&"failed=0") && row.contains(&"unreachable=0"), "{recap}");
            assert!(row.contains(&format!("changed={changed}").as_str()), "{recap}");
        }
    }
}
