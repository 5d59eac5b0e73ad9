//! The domain's description. Every value in it is a validated type or a path, and escaped all the same.
use super::limits::{BURST, BURST_SECONDS, Limits, TRANSLATED_MIB};
use crate::images::{DiskFormat, Manifest};
use protocol::names::LeaseId;
use protocol::units::Resources;
use std::collections::BTreeSet;
use std::path::Path;

/// Our own namespace in a domain's metadata.
pub const NAMESPACE: &str = "https://golemnode.org/xmlns/domain/1";
/// The network card stands where libvirt puts nothing by itself.
const NIC_SLOT: &str = "0x10";
/// The guest's serial output, kept in QEMU's memory: a guest that writes without end fills no disk.
pub const CONSOLE: &str = "gnserial";
pub const CONSOLE_BYTES: usize = 64 * 1024;
/// The id of the network backend, for the monitor's `hostfwd_add`.
pub const NETDEV: &str = "n0";
pub const DISK: &str = "vda";
/// QEMU's own wall around a guest's network: nothing goes out.
const RESTRICT: &str = ",restrict=on";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Kvm,
    Tcg,
}

pub struct Description<'a> {
    pub id: LeaseId,
    pub resources: Resources,
    pub image: &'a Manifest,
    pub engine: Engine,
    pub overlay: &'a Path,
    pub base: &'a Path,
    pub seed: &'a Path,
    pub kernel: Option<&'a Path>,
    pub initrd: Option<&'a Path>,
    pub ports: &'a [u16],
    pub limits: Limits,
    /// The firewall holds it to its policy, by the group that it runs in.
    pub egress: bool,
    /// User and group of QEMU, which the files belong to by now. None: libvirt's choice, and libvirt gives it the files.
    pub run_as: Option<(u32, u32)>,
    /// Whose domain it is, where several nodes share one libvirt.
    pub owner: &'a str,
}

pub fn domain_name(id: LeaseId) -> String {
    format!("golemnode-{id}")
}
pub fn id_of(name: &str) -> Option<LeaseId> {
    name.strip_prefix("golemnode-")?.parse().ok()
}

/// The lease's 16 bytes again, in the form that libvirt keeps: describing a VM anew replaces it.
fn uuid(id: LeaseId) -> String {
    let hex = id.to_string();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Whether libvirt's description of a domain says that it runs under KVM.
pub fn is_kvm(description: &str) -> bool {
    let tag = description.split_once("<domain").and_then(|(_, rest)| rest.split_once('>'));
    tag.is_some_and(|(attributes, _)| attributes.contains("type='kvm'"))
}

/// Whether libvirt's description of a domain says that it has a way out.
pub fn has_egress(description: &str) -> bool {
    description.contains("user,id=") && !description.contains(RESTRICT)
}

pub fn describe(d: &Description) -> String {
    let (kind, cpu, tcg) = match d.engine {
        Engine::Kvm => ("kvm", "<cpu mode='host-passthrough'/>", String::new()),
        // Everything that the emulator can do: distributions begin to require more than the oldest x86-64.
        Engine::Tcg => {
            let cache = format!("<tcg><tb-cache unit='MiB'>{TRANSLATED_MIB}</tb-cache></tcg>");
            ("qemu", "<cpu mode='maximum'/>", cache)
        }
    };
    let Resources { cpus, memory_mib, .. } = d.resources;
    let arch = d.image.arch;
    let machine = match arch {
        protocol::names::Arch::X86_64 => "pc",
        protocol::names::Arch::Aarch64 => "virt",
    };
    let base_format = match d.image.disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let ports: BTreeSet<u16> = d.ports.iter().copied().chain([22]).filter(|port| *port != 0).collect();
    let forwards: String = ports.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).collect();
    format!(
        r#"<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <golemnode:vm xmlns:golemnode='{NAMESPACE}' lease='{id}' image='{image}' disk_gib='{disk}' owner='{owner}'/>
  </metadata>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{cpus}</vcpu>
  <os>
    <type arch='{arch}' machine='{machine}'>hvm</type>{boot}
  </os>
  <features><acpi/>{tcg}</features>
  {cpu}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='{overlay}'/>
      <backingStore type='file'>
        <format type='{base_format}'/>
        <source file='{base}'>{keep}</source>
        <backingStore/>
      </backingStore>
      <target dev='{DISK}' bus='virtio'/>
      {iotune}
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{seed}'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
{seclabel}  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id={NETDEV}{restrict}{forwards}'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev={NETDEV},romfile=,addr={NIC_SLOT}'/>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='ringbuf,id={CONSOLE},size={CONSOLE_BYTES}'/>
    <qemu:arg value='-serial'/>
    <qemu:arg value='chardev:{CONSOLE}'/>
  </qemu:commandline>
</domain>
"#,
        name = domain_name(d.id),
        uuid = uuid(d.id),
        id = d.id,
        image = escape(d.image.name.as_str()),
        disk = d.resources.disk_gib.0,
        owner = escape(d.owner),
        memory = memory_mib.0,
        boot = boot(d),
        overlay = path(d.overlay),
        base = path(d.base),
        seed = path(d.seed),
        // libvirt takes the word for one file only where it gives away the others.
        keep = if d.run_as.is_some() { "" } else { "<seclabel model='dac' relabel='no'/>" },
        // Of version 4 alone: what QEMU offers of version 6 are addresses that hosts use after all others.
        restrict = if d.egress { ",ipv6=off" } else { RESTRICT },
        iotune = iotune(d.limits),
        seclabel = seclabel(d.run_as),
    )
}

/// Reads and writes together; a burst, and then the share.
fn iotune(limits: Limits) -> String {
    let bytes = u64::from(limits.disk_mib_per_s) << 20;
    let share = |what: &str, share: u64| {
        let most = share * u64::from(BURST);
        format!(
            "<total_{what}_sec>{share}</total_{what}_sec><total_{what}_sec_max>{most}</total_{what}_sec_max>\
             <total_{what}_sec_max_length>{BURST_SECONDS}</total_{what}_sec_max_length>"
        )
    };
    format!("<iotune>{}{}</iotune>", share("bytes", bytes), share("iops", u64::from(limits.disk_iops)))
}

/// libvirt changes the owner of nothing: it would give the kernel, too, which other guests boot.
fn seclabel(run_as: Option<(u32, u32)>) -> String {
    let Some((uid, gid)) = run_as else { return String::new() };
    format!("  <seclabel type='static' model='dac' relabel='no'><label>+{uid}:+{gid}</label></seclabel>\n")
}

fn boot(d: &Description) -> String {
    let Some(kernel) = d.kernel else { return "\n    <boot dev='hd'/>".to_owned() };
    let mut boot = format!("\n    <kernel>{}</kernel>", path(kernel));
    if let Some(initrd) = d.initrd {
        boot.push_str(&format!("\n    <initrd>{}</initrd>", path(initrd)));
    }
    if let Some(cmdline) = &d.image.cmdline {
        boot.push_str(&format!("\n    <cmdline>{}</cmdline>", escape(cmdline)));
    }
    boot
}

fn path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{BootFile, DiskFile};
    use protocol::names::{Arch, Digest};
    use std::process::Command;

    fn manifest(kernel: bool) -> Manifest {
        let file = || BootFile { file: "vmlinuz".into(), sha256: Digest([0; 32]), size: 1 };
        Manifest {
            name: "debian:12".parse().unwrap(),
            arch: Arch::X86_64,
            disk: DiskFile {
                file: "disk.qcow2".into(),
                sha256: Digest([0; 32]),
                format: DiskFormat::Qcow2,
                virtual_size_bytes: 1 << 30,
                size: 1,
            },
            kernel: kernel.then(file),
            initrd: kernel.then(file),
            cmdline: kernel.then(|| "root=/dev/vda a='b' <&>".to_owned()),
            default_user: "debian".parse().unwrap(),
            features: vec![],
        }
    }

    fn described(engine: Engine, kernel: bool, file: &Path, ports: &[u16]) -> String {
        describe(&Description {
            id: LeaseId([7; 16]),
            resources: Resources::SMALL,
            image: &manifest(kernel),
            engine,
            overlay: file,
            base: file,
            seed: file,
            kernel: kernel.then_some(file),
            initrd: kernel.then_some(file),
            ports,
            limits: Limits::default(),
            egress: false,
            run_as: kernel.then_some((64055, 64055)),
            owner: "0123abcd",
        })
    }

    #[test]
    fn libvirts_own_schema_accepts_it() {
        let dir = tempfile::tempdir().unwrap();
        for (engine, kernel) in [(Engine::Tcg, true), (Engine::Kvm, false)] {
            let text = described(engine, kernel, Path::new("/tmp/a&b/x"), &[80, 443]);
            let path = dir.path().join("domain.xml");
            std::fs::write(&path, &text).unwrap();
            let Ok(checked) = Command::new("virt-xml-validate").arg(&path).arg("domain").output() else {
                eprintln!("SKIPPED: virt-xml-validate: install libvirt-clients");
                return;
            };
            assert!(checked.status.success(), "{}{text}", String::from_utf8_lossy(&checked.stderr));
        }
    }

    #[test]
    fn every_network_card_is_restricted_and_forwards_on_loopback_only() {
        for (engine, kernel) in [(Engine::Tcg, true), (Engine::Tcg, false), (Engine::Kvm, true), (Engine::Kvm, false)] {
            let text = described(engine, kernel, Path::new("/x"), &[443, 22, 0, 443]);
            let netdevs: Vec<&str> = text.lines().filter(|line| line.contains("user,id=")).map(str::trim).collect();
            let only = "<qemu:arg value='user,id=n0,restrict=on,\
                        hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:443'/>";
            assert_eq!(netdevs, [only]);
            assert_eq!(text.matches("-netdev").count(), 1);
            assert!(!has_egress(&text));
            for way_out in ["<interface", "<hostdev", "<filesystem", "<channel", "<redirdev", "<graphics"] {
                assert!(!text.contains(way_out), "{way_out}");
            }
        }
    }

    #[test]
    fn a_guest_with_egress_is_told_from_one_without() {
        let (dir, image) = (Path::new("/x"), manifest(false));
        let text = describe(&Description {
            id: LeaseId([7; 16]),
            resources: Resources::SMALL,
            image: &image,
            engine: Engine::Tcg,
            overlay: dir,
            base: dir,
            seed: dir,
            kernel: None,
            initrd: None,
            ports: &[],
            limits: Limits::default(),
            egress: true,
            run_as: Some((64055, 1_879_048_193)),
            owner: "",
        });
        assert!(has_egress(&text));
        assert!(text.contains("<qemu:arg value='user,id=n0,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22'/>"), "{text}");
        assert!(text.contains("<label>+64055:+1879048193</label>"));
    }

    #[test]
    fn no_path_breaks_out_of_its_place() {
        let hostile = Path::new("/tmp/'/><devices x=\"<&>\"/x");
        let text = described(Engine::Tcg, true, hostile, &[]);
        assert_eq!(text.matches("<devices").count(), 1);
        assert_eq!(text.matches("/tmp/&apos;/&gt;&lt;devices x=&quot;&lt;&amp;&gt;&quot;/x").count(), 5);
    }

    #[test]
    fn every_guest_has_its_share_of_the_disk_and_a_user_without_rights() {
        for engine in [Engine::Tcg, Engine::Kvm] {
            let text = described(engine, true, Path::new("/x"), &[]);
            for limit in [
                "<total_bytes_sec>104857600</total_bytes_sec>",
                "<total_bytes_sec_max>419430400</total_bytes_sec_max>",
                "<total_iops_sec>2000</total_iops_sec>",
                "<total_iops_sec_max_length>10</total_iops_sec_max_length>",
                "<seclabel type='static' model='dac' relabel='no'><label>+64055:+64055</label></seclabel>",
            ] {
                assert_eq!(text.matches(limit).count(), 1, "{limit}");
            }
            assert_eq!(text.contains("<tb-cache unit='MiB'>128</tb-cache>"), engine == Engine::Tcg);
        }
        assert!(!described(Engine::Tcg, false, Path::new("/x"), &[]).contains("<seclabel type="));
    }

    #[test]
    fn what_runs_under_kvm_says_so() {
        assert!(is_kvm(&described(Engine::Kvm, true, Path::new("/x"), &[])));
        assert!(is_kvm("<domain type='kvm' id='3'>\n</domain>"));
        assert!(!is_kvm(&described(Engine::Tcg, true, Path::new("/type='kvm'"), &[])));
    }

    #[test]
    fn a_domains_name_is_its_lease() {
        let id = LeaseId([9; 16]);
        assert_eq!(id_of(&domain_name(id)), Some(id));
        assert_eq!(id_of("somebody-elses"), None);
    }
}
