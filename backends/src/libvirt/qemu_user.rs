//! As whom QEMU runs. Under a node that is root it is a user without any right of its own; where a guest has egress, in
//! a group of that guest's own, by which the host's firewall knows what comes from it. The user stays the same, so that
//! the device nodes that are open to it (`/dev/kvm`) stay open.
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

/// The users as whom distributions run QEMU under a root libvirt, each with a group of the same name.
const NAMES: [&str; 3] = ["libvirt-qemu", "qemu", "qemu-libvirtd"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QemuUser {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
}

impl QemuUser {
    /// None where the distribution has made none.
    pub fn of_this_host() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::within(&read("/etc/passwd"), &read("/etc/group"))
    }

    fn within(users: &str, groups: &str) -> Option<Self> {
        let number = |table: &str, name: &str| {
            let line = table.lines().find(|line| line.split(':').next() == Some(name))?;
            line.split(':').nth(2)?.parse::<u32>().ok()
        };
        // Root under another name is root.
        let found = |name: &'static str| {
            Some(QemuUser { name, uid: number(users, name).filter(|uid| *uid != 0)?, gid: number(groups, name)? })
        };
        NAMES.into_iter().find_map(found)
    }

    /// libvirt is told not to: it would also give away the kernel, which every later guest of that image boots.
    pub fn own(&self, path: &Path, gid: u32) -> std::io::Result<()> {
        chown(path, Some(self.uid), Some(gid))
    }
}

/// Every group that such a user is in.
pub fn groups() -> Vec<u32> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let is_qemu = |name: &str| NAMES.contains(&name);
    let first = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|user| is_qemu(user[0]));
    let other = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let other = other.filter(|group| group.get(3).is_some_and(|members| members.split(',').any(is_qemu)));
    first
        .map(|user| user.get(3).copied())
        .chain(other.map(|group| group.get(2).copied()))
        .flatten()
        .filter_map(|id| id.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distributions_user_is_found_and_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\nqemu:x:107:107::/:/sbin/nologin\nlibvirt-qemu:x:64055:109::/:/x\n";
        let groups = "root:x:0:\nkvm:x:109:\nqemu:x:107:\nlibvirt-qemu:x:64055:\n";
        let found = |users, groups| QemuUser::within(users, groups).map(|user| (user.name, user.uid, user.gid));
        assert_eq!(found(users, groups), Some(("libvirt-qemu", 64055, 64055)));
        assert_eq!(found(&users[..users.find("libvirt").unwrap()], groups), Some(("qemu", 107, 107)));
        assert_eq!(found("root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:0:0::/:/x\n", groups), None);
        assert_eq!(found(users, ""), None);
    }
}
