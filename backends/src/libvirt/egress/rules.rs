//! What guests with egress may reach, as one table of the host's firewall. Pure: text and numbers.
//!
//! QEMU's user-mode network makes the guest's connections its own, on the host: by itself it would reach the host's
//! loopback (at 10.0.2.2, or by any address of the host), and all that the host reaches. The kernel knows of each
//! socket the group of the process that made it, and a process without rights cannot change its group: so every guest
//! has one of its own, in a range that no distribution gives away.
use protocol::names::{Digest, Egress, LeaseId};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// From here to 2^31 nobody assigns groups: <https://systemd.io/UIDS-GIDS/>.
const UNASSIGNED: u32 = 0x7000_0000;
/// Of a guest's group, the bits that are the node's, the policy's and the guest's own.
const NODE_SHIFT: u32 = 16;
const NODE_MASK: u32 = 0x0fff;
const OPEN: u32 = 0x8000;
const GUEST_MASK: u32 = 0x7fff;

/// Nobody's on the Internet. What stands for documentation is left out: it is nobody's at all.
const NOT_INTERNET_4: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// With those that lead into an IPv4 of anybody's choice: mapped, translated, 6to4, Teredo.
const NOT_INTERNET_6: [&str; 12] = [
    "::/127",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2002::/16",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The groups of one node's guests. Two nodes of one host that share a number are both held to the rules of both.
#[derive(Clone, Copy, Debug)]
pub struct Groups(u32);

impl Groups {
    pub fn of(node: Digest) -> Self {
        let number = u32::from(u16::from_be_bytes([node.0[0], node.0[1]])) & NODE_MASK;
        Groups(UNASSIGNED | number << NODE_SHIFT)
    }

    /// Of guests that reach the Internet, or all that the host does.
    pub fn range(self, open: bool) -> RangeInclusive<u32> {
        let first = if open { self.0 | OPEN } else { self.0 };
        first..=first | GUEST_MASK
    }

    /// Two guests that share a number share a bandwidth, and nothing else.
    pub fn of_guest(self, egress: Egress, id: LeaseId) -> Option<u32> {
        let own = u32::from(u16::from_be_bytes([id.0[0], id.0[1]])) & GUEST_MASK;
        (egress != Egress::None).then(|| self.range(egress == Egress::Open).start() | own)
    }
}

/// A network that the host reaches without a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Where the host asks for names: guests do, too.
    pub resolvers: Vec<IpAddr>,
    pub on_link: Vec<Network>,
}

/// The whole table, made or replaced in one step. Stateless: what is let through is decided packet by packet, so no
/// guest can fill the host's table of connections.
pub fn table(name: &str, groups: Groups, around: &Surroundings, bytes_per_s: u64) -> String {
    let mut text = format!("table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n");
    for way in ["sent", "taken"] {
        let _ = writeln!(text, "\tset {way} {{ type gid; size 65536; flags dynamic; timeout 60s; }}");
    }
    let (internet, open) = (groups.range(false), groups.range(true));
    let (low, high) = (internet.start(), open.end());
    let pace = |set: &str| {
        // nft lets a second's worth come at once, and the burst beside.
        let burst = bytes_per_s / 4;
        format!("update @{set} {{ meta skgid limit rate over {bytes_per_s} bytes/second burst {burst} bytes }} drop")
    };
    let gate = |hook: &str| format!("type filter hook {hook} priority raw; policy accept;");
    let jump =
        |range: &RangeInclusive<u32>, chain: &str| format!("meta skgid {}-{} jump {chain}", range.start(), range.end());
    // Before addresses are translated: a port that is published from a container is the host's own.
    chain(&mut text, "output", [gate("output"), jump(&internet, "internet"), jump(&open, "open")]);
    let taken = format!("iif != \"lo\" meta skgid {low}-{high} {}", pace("taken"));
    chain(&mut text, "input", [gate("input"), taken]);
    let never = NOT_INTERNET_4.iter().chain(&NOT_INTERNET_6).map(ToString::to_string);
    let never = never.chain(around.on_link.iter().map(|network| format!("{}/{}", network.address, network.prefix)));
    let refused = never.map(|network| format!("{} daddr {network} goto refused", family(&network)));
    let policy = ["jump host".to_owned()].into_iter().chain(refused).chain(["goto pace".to_owned()]);
    chain(&mut text, "internet", policy);
    chain(&mut text, "open", ["jump host".to_owned(), "goto pace".to_owned()]);
    // The answers of the forwards by which tenants come in: whoever opens a connection sends SYN alone.
    let answers = "oif \"lo\" tcp flags & (syn | ack) != syn accept".to_owned();
    let names = around.resolvers.iter().map(ToString::to_string);
    let names = names.map(|to| format!("{} daddr {to} meta l4proto {{ tcp, udp }} th dport 53 accept", family(&to)));
    // Whatever is the host's own goes by way of lo, whichever address it has.
    let own = "oif \"lo\" goto refused".to_owned();
    chain(&mut text, "host", [answers].into_iter().chain(names).chain([own]));
    let reset = "meta l4proto tcp reject with tcp reset".to_owned();
    chain(&mut text, "refused", [reset, "reject with icmpx admin-prohibited".to_owned()]);
    chain(&mut text, "pace", [pace("sent")]);
    text.push_str("}\n");
    text
}

fn chain(text: &mut String, name: &str, rules: impl IntoIterator<Item = String>) {
    let _ = writeln!(text, "\tchain {name} {{");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "ip6" } else { "ip" }
}

impl Network {
    fn contains(&self, other: &Network) -> bool {
        let high = |address: IpAddr, prefix: u8| match address {
            IpAddr::V4(address) => u32::from(address).checked_shr(32 - u32::from(prefix)).unwrap_or(0).into(),
            IpAddr::V6(address) => u128::from(address).checked_shr(128 - u32::from(prefix)).unwrap_or(0),
        };
        let alike = self.address.is_ipv4() == other.address.is_ipv4() && self.prefix <= other.prefix;
        alike && high(self.address, self.prefix) == high(other.address, self.prefix)
    }

    /// A route for half of the world is no LAN.
    const WIDEST_4: u8 = 8;
    const WIDEST_6: u8 = 16;

    fn is_lan(&self) -> bool {
        self.prefix >= if self.address.is_ipv4() { Self::WIDEST_4 } else { Self::WIDEST_6 }
    }
}

/// Lines of `/proc/net/route`: interface, destination, gateway, flags, three counts, mask. Numbers in hexadecimal, as
/// they are in memory.
pub fn on_link_4(routes: &str) -> Vec<Network> {
    let network = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number =
            |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(|raw| u32::from_be_bytes(raw.to_ne_bytes()));
        let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let network = Network { address: Ipv4Addr::from(destination).into(), prefix: mask.count_ones() as u8 };
        (gateway == 0 && words.first() != Some(&"lo") && network.is_lan()).then_some(network)
    };
    sorted(routes.lines().skip(1).filter_map(network).collect())
}

/// Lines of `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, four numbers, interface.
pub fn on_link_6(routes: &str) -> Vec<Network> {
    let address = |word: &str| u128::from_str_radix(word, 16).ok();
    let network = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let prefix = u8::from_str_radix(words.get(1)?, 16).ok()?;
        let (destination, hop) = (address(words.first()?)?, address(words.get(4)?)?);
        let network = Network { address: Ipv6Addr::from(destination).into(), prefix };
        (hop == 0 && words.last() != Some(&"lo") && network.is_lan()).then_some(network)
    };
    sorted(routes.lines().filter_map(network).collect())
}

/// Without what lies in another, as each address of the host's own does: those come and go, and the rules would with
/// them.
fn sorted(mut networks: Vec<Network>) -> Vec<Network> {
    networks.sort();
    networks.dedup();
    let wider = |one: &Network| networks.iter().any(|other| other != one && other.contains(one));
    networks.iter().copied().filter(|one| !wider(one)).collect()
}

/// Of `resolv.conf`.
pub fn resolvers(conf: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        // A link-local one names its interface, too.
        (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse().ok())?
    };
    conf.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> String {
        let around = Surroundings {
            resolvers: resolvers("# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch lan\n"),
            on_link: vec![Network { address: "198.51.100.0".parse().unwrap(), prefix: 24 }],
        };
        table("golemnode_0001", Groups::of(Digest([0; 32])), &around, 12_500_000)
    }

    #[test]
    fn each_guest_has_a_group_in_the_range_of_its_policy() {
        for number in [0u8, 1, 0x7f, 0xff] {
            let groups = Groups::of(Digest([number; 32]));
            let (internet, open) = (groups.range(false), groups.range(true));
            assert_eq!(internet.end() + 1, *open.start());
            assert!(*internet.start() >= 0x7000_0000 && *open.end() <= 0x7fff_ffff);
            for id in [LeaseId([0; 16]), LeaseId([0xff; 16]), LeaseId([0x80; 16])] {
                assert!(internet.contains(&groups.of_guest(Egress::Internet, id).unwrap()));
                assert!(open.contains(&groups.of_guest(Egress::Open, id).unwrap()));
                assert_eq!(groups.of_guest(Egress::None, id), None);
            }
        }
    }

    #[test]
    fn the_host_is_refused_before_anything_is_let_through() {
        let text = example();
        let chain_of = |name: &str| {
            let (_, rest) = text.split_once(&format!("chain {name} {{\n")).unwrap();
            rest.split_once("\t}").unwrap().0.lines().map(str::trim).collect::<Vec<_>>()
        };
        for policy in ["internet", "open"] {
            assert_eq!(chain_of(policy)[0], "jump host", "{policy}");
        }
        let host = chain_of("host");
        assert_eq!(host.last(), Some(&"oif \"lo\" goto refused"));
        let accepted: Vec<_> = host.iter().filter(|rule| rule.ends_with("accept")).collect();
        assert_eq!(accepted.len(), 3, "answers, and one rule for each resolver: {accepted:?}");
        for range in NOT_INTERNET_4.iter().chain(&NOT_INTERNET_6).chain(&["198.51.100.0/24"]) {
            let refused =
                chain_of("internet").iter().any(|rule| rule.ends_with(&format!("daddr {range} goto refused")));
            assert!(refused, "{range}");
        }
        assert!(!chain_of("open").iter().any(|rule| rule.contains("daddr")));
    }

    #[test]
    fn networks_without_a_router_are_the_lan() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
            eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
            wg0 00000000 00000000 0001 0 0 0 00000080 0 0 0\n\
            lo 0000007F 00000000 0001 0 0 0 000000FF 0 0 0\n";
        if cfg!(target_endian = "little") {
            let lan = Network { address: "192.0.2.0".parse().unwrap(), prefix: 24 };
            assert_eq!(on_link_4(routes), [lan]);
        }
        let zero = "0".repeat(32);
        let line = |to: &str, len: &str, hop: &str, dev: &str| {
            format!("{to} {len} {zero} 00 {hop} 00000100 00000001 00000000 00000001 {dev}\n")
        };
        let (lan, hop) = ("20010db8000000010000000000000000", "fe800000000000000000000000000001");
        let own = "20010db8000000010000000000000007";
        let routes = line(own, "80", &zero, "eth0")
            + &line(lan, "40", &zero, "eth0")
            + &line(&zero, "00", hop, "eth0")
            + &line(&zero, "00", &zero, "lo");
        assert_eq!(on_link_6(&routes), [Network { address: "2001:db8:0:1::".parse().unwrap(), prefix: 64 }]);
    }
}
