use super::*;
use crate::Keypair;
use crate::names::IsolationWanted;
use proptest::prelude::*;
use std::collections::BTreeSet;

const CLASS: Class = Class { arch: Arch::X86_64, isolation: Isolation::Hardware, tier: Tier::Small };

fn peer(n: u64) -> PeerId {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&n.to_le_bytes());
    Keypair::from_secret(&secret).peer_id()
}

#[test]
fn tiers_by_the_largest_vm() {
    for (cpus, memory, tier) in [
        (1, 1024, Tier::Small),
        (2, 4096, Tier::Small),
        (2, 4097, Tier::Medium),
        (3, 512, Tier::Medium),
        (8, 16384, Tier::Medium),
        (9, 1024, Tier::Large),
        (1, 16385, Tier::Large),
    ] {
        assert_eq!(Tier::of(Resources::new(cpus, memory, 10)), tier, "{cpus} CPUs, {memory} MiB");
    }
}

#[test]
fn every_network_index_depth_and_prefix_has_its_own_key() {
    let mut keys = BTreeSet::new();
    let mut count = 0;
    for network in ["main", "main-2"] {
        let network: Network = network.parse().unwrap();
        let mut shards = vec![Shard::WHOLE];
        for tier in Tier::ALL {
            let class = Class { tier, ..CLASS };
            for index in [
                Index::All(class),
                Index::Country(class, "DE".parse().unwrap()),
                Index::Country(class, "FR".parse().unwrap()),
            ] {
                let shards_of = (0..4u8).flat_map(|depth| (0..1 << depth).map(move |prefix| (depth, prefix)));
                shards.extend(shards_of.map(|(depth, prefix)| Shard {
                    index: index.clone(),
                    depth,
                    prefix,
                    alternate: 0,
                }));
            }
        }
        for shard in shards {
            assert!(shard.is_valid());
            count += 1;
            keys.insert(shard.position(&network));
        }
    }
    assert_eq!(keys.len(), count);
}

#[test]
fn a_query_looks_in_the_tiers_that_can_hold_it_lowest_first() {
    let query = Query { want: Resources::LARGE, arch: Some(Arch::X86_64), ..Query::default() };
    let tiers: Vec<Vec<Tier>> = indexes_for(&query)
        .iter()
        .map(|indexes| {
            let tier = |index: &Index| match index {
                Index::All(class) => class.tier,
                other => panic!("{other:?}"),
            };
            indexes.iter().map(tier).collect()
        })
        .collect();
    assert_eq!(tiers, [vec![Tier::Medium; 2], vec![Tier::Large; 2]], "hardware and emulated");
    let any = Query { isolation: IsolationWanted::Any, country: Some("DE".parse().unwrap()), ..Query::default() };
    assert_eq!(indexes_for(&any).iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8]);
    assert!(indexes_for(&any).concat().iter().all(|index| matches!(index, Index::Country(..))));
}

#[test]
fn subnets_of_addresses() {
    let net = |text: &str| Net::of_addrs(&[text.parse().unwrap()]);
    assert_eq!(net("/ip4/192.0.2.7/tcp/4001"), Some(Net::V4([192, 0])));
    assert_eq!(net("/ip6/2001:db8:1::1/udp/1/quic-v1"), Some(Net::V6([0x20, 0x01, 0x0d, 0xb8])));
    assert_eq!(net("/ip6/::ffff:192.0.2.7/tcp/1"), Some(Net::V4([192, 0])));
    let local = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.1.2.3/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/fd00::1/tcp/1"];
    for nowhere in local.into_iter().chain(["/dns/example.org/tcp/1", "/ip4/999.1.1.1/tcp/1", "/ip4", "/x"]) {
        assert_eq!(net(nowhere), None, "{nowhere}");
    }
    assert_eq!(net("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW/p2p-circuit"), None, "that is the relay's");
}

#[test]
fn ground_ids_of_few_subnets_get_few_places() {
    let place = Position(0);
    let server = |n: u64, at: u128, net: Option<Net>| {
        std::sync::Arc::new(Server { peer: peer(n), at: Position(at), net, addrs: vec![] })
    };
    let ground = (0..20).map(|n| server(n, u128::from(n), Some(Net::V4([203, (n % 2) as u8]))));
    let honest = (0..20).map(|n| server(100 + n, 1000 + u128::from(n), Some(Net::V4([10, n as u8]))));
    let chosen = spread(ground.chain(honest).collect(), place, HOLDERS);
    assert_eq!(chosen.len(), HOLDERS);
    assert_eq!(chosen.iter().filter(|server| server.at.0 < 1000).count(), 4);
    let site = (0..20).map(|n| server(n, u128::from(n), None)).collect();
    assert_eq!(spread(site, place, HOLDERS).len(), HOLDERS, "without a subnet nothing is held against anybody");
}

proptest! {
    #[test]
    fn a_provider_has_one_place_at_each_depth(n in any::<u64>(), depth in 0..=MAX_DEPTH, chance in any::<u32>()) {
        let shard = Shard::of(Index::All(CLASS), depth, peer(n));
        prop_assert!(shard.is_valid() && shard.takes_peer(peer(n)));
        let mut up = shard.clone();
        while up.depth > 0 {
            let parent = up.parent().unwrap();
            prop_assert!(parent.covers(&shard) && parent.takes_peer(peer(n)));
            prop_assert_eq!(parent.depth + 1, up.depth);
            up = parent;
        }
        prop_assert_eq!(up.parent(), Some(Shard::WHOLE));
        let down = shard.down_to(depth.saturating_add(3), chance);
        prop_assert!(down.is_valid() && shard.covers(&down));
        prop_assert_eq!(down.up_to(depth), shard);
    }

    #[test]
    fn a_prefix_is_valid_within_its_depth_only(depth in any::<u8>(), prefix in any::<u32>()) {
        let shard = Shard { index: Index::All(CLASS), depth, prefix, alternate: 0 };
        prop_assert_eq!(shard.is_valid(), depth <= MAX_DEPTH && u64::from(prefix) < (1u64 << depth.min(40)));
    }
}
