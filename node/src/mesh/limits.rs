//! Every bound of the mesh, with its unit and its reason.
use std::time::Duration;

/// Neighbours kept beside pinned peers, bootstrap peers and anchors. Gossip pushes to 6 of them; the rest make the graph
/// robust.
/// Each costs about 100 KiB over TCP, 150 KiB over QUIC (measured with 50), and 60 s pings to 24 some 50 B/s.
pub const MAX_NEIGHBOURS: usize = 24;
/// A node looks for neighbours while it has fewer than this share of the maximum: since everybody dials only a third,
/// two thirds stay open for newcomers, and no closed club of early nodes can form.
pub const WANTED_SHARE: usize = 3;
/// A one-shot command wants this many: enough to publish and ask, cheap to join.
pub const WANTED_BY_CLIENT: usize = 3;
/// Peers that the caller pins (leased ones) at once; each lease has one, `max_vms` and a requestor's VMs are tens.
pub const MAX_PINNED: usize = 1024;
/// A connection beyond the neighbours is let be for this long: enough for a newcomer to ask who else there is, for a
/// lookup to finish, and for a request with its answer (5 s).
pub const VISIT: Duration = Duration::from_secs(10);
/// Who has asked or answered within this is in use: the next question is on its way.
pub const IN_USE: Duration = Duration::from_secs(2);
/// One that a lookup of ours made: it asks at once, and an answer takes two round trips. Each costs both sides some
/// 100 KiB meanwhile, and a lookup makes a dozen.
pub const CALL: Duration = Duration::from_secs(3);
/// Connections above the neighbours (visitors, lookups) before inbound ones are refused outright. It bounds memory:
/// (24 + 232) × 150 KiB < 38 MiB, if it takes as many sites as there are. Beside its neighbours, a crowd that wants what
/// one provider has: whoever is not heard cannot be told when to ask again.
pub const MAX_VISITORS: usize = 232;
/// Connections a peer may have at once: one each over TCP and QUIC, one more while both sides dial, and the relayed one
/// that a hole is punched beside.
pub const MAX_CONNECTIONS_PER_PEER: usize = 4;
/// Inbound connections from one site, those aside that a relay carries and bounds. More than there are neighbours, so
/// that of a site whose nodes know only us each can pay its first visit; little enough that it takes four sites to take
/// all places.
pub const MAX_CONNECTIONS_PER_SITE: usize = 32;
/// Inbound handshakes of one site, those of a site aside where a pinned peer is: so many at once, for a household, an
/// office or a rack that comes back together, …
pub const HANDSHAKE_BURST_PER_SITE: f64 = 80.0;
/// … and after that this many a second. go-libp2p gives a /48 of IPv6 the same of both (its `conn_rate_limiter.go`; of
/// IPv4 it bounds single addresses, 16 and 0.2). A connection costs some 2.6 KB each way, and who is refused a place on the
/// board comes again.
pub const HANDSHAKE_RATE_PER_SITE: f64 = 0.5;
/// Of one core: what the tasks of all connections may take together (`pace`), leased and bootstrap peers' aside. A
/// question with its answer takes some 0.4 ms of it, and about as much besides.
pub const TASKS_SHARE: f64 = 0.1;
/// … and what those may that are still shaking hands: dozens a second.
pub const HANDSHAKES_SHARE: f64 = 0.05;
/// Inbound handshakes at once: each costs about 1 ms of a core, so this is a quarter of a second of work.
pub const MAX_PENDING_INBOUND: usize = 256;
/// Outbound dials at once: a lookup runs 3 in parallel, the rest is for requests.
pub const MAX_PENDING_OUTBOUND: usize = 64;
/// Established neighbours given up in favour of newcomers, each minute: a closed club opens, churn stays small.
pub const EVICTIONS_PER_MINUTE: usize = 2;
/// Nobody is given up for a newcomer before it has been a neighbour for this long.
pub const MIN_STAY: Duration = Duration::from_secs(60);
/// A peer that did not want our company, or was not there, is not dialled for company again before this has passed.
pub const AVOID: Duration = Duration::from_secs(600);

/// Remembered addresses: peers (about 0.5 KiB each) …
pub const MAX_KNOWN_PEERS: usize = 1024;
/// … and addresses for each: both transports on two interfaces of both IP versions.
pub const MAX_ADDRS_PER_PEER: usize = 8;
/// New addresses of one peer are taken this often: each goes to the DHT's table and to the node's disk, and who moves
/// from network to network does not do so every second. Of what it says meanwhile, the last is taken then.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// Peers whose addresses were taken within `ANNOUNCE_EVERY`: more than are connected at once; beyond it others wait.
pub const MAX_ANNOUNCED: usize = 1024;
/// How long `spawn` waits for the listeners to say where they listen; some interface may never be up.
pub const SETTLE: Duration = Duration::from_millis(250);
/// The longest address we keep: a DNS name (253) and what stands around it.
pub const MAX_ADDR_BYTES: usize = 400;
/// Characters of what a peer says that it runs.
pub const MAX_AGENT: usize = 64;
/// Bans at once, and those that are over and count for the next: some 300 bytes each. The oldest is forgotten first.
pub const MAX_BANNED: usize = 4096;

/// An RPC ends after this, whatever it waits for: the dial, the peer, or the wire (DESIGN: 5 s).
pub const RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// An inbound request is held open for longer, so that the asker's time-out comes first and is called one.
pub const CONTROL_STREAM_TIMEOUT: Duration = Duration::from_secs(7);
/// Requests of ours under way; a create asks 3 providers, a board sync one neighbour each.
pub const MAX_RPCS: usize = 512;
/// Requests that wait for our answer, of everybody. Bodies are ≤ 256 KiB but typically < 4 KiB.
pub const MAX_UNANSWERED: usize = 256;
/// Control streams at once on one connection, both directions together: K quotes and a page of the board in parallel,
/// and 16 × 256 KiB bounds what one peer can make us hold.
pub const MAX_CONTROL_STREAMS: usize = 16;
/// Requests a peer may make: this many a second …
pub const REQUEST_RATE: f64 = 50.0;
/// … and in one burst. Generous: an honest node makes a few a minute.
pub const REQUEST_BURST: f64 = 100.0;
/// What all peers of one site (`sites`) may together, in shares of one peer: a household, or an office that has a few
/// nodes. More ids on the same addresses get no more.
pub const SITE_SHARES: f64 = 4.0;
/// Peers, and sites, whose buckets are kept; a full bucket is a forgotten one, so only busy ones take a place.
pub const MAX_BUCKETS: usize = 1024;

/// A tunnel is open, with dialling and finding the peer, within this.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A tunnel that has not opened after this is opened over another connection, too: three round trips around the world,
/// and time enough left to dial.
pub const REOPEN_AFTER: Duration = Duration::from_secs(3);
/// Tunnels from one peer at once: a requestor's ssh, scp and Ansible forks to the VMs of one provider.
pub const MAX_TUNNELS_PER_PEER: usize = 64;
/// … and from all peers of one site: four peers' share.
pub const MAX_TUNNELS_PER_SITE: usize = 256;
/// Tunnels from everybody at once. A stalled stream holds ≤ 256 KiB of window.
pub const MAX_TUNNELS: usize = 1024;
/// Tunnels that we wait to open.
pub const MAX_OPENING: usize = 256;

/// Events on their way to the node; when they are not taken, the swarm waits, and with it the peers.
pub const EVENTS: usize = 256;
/// Events made by one turn of the loop that wait for a place among `EVENTS`. The swarm is polled only while the queue
/// is shorter; commands add at most one each (`MAX_RPCS`).
pub const OUTBOX: usize = 64;
/// Commands on their way to the mesh. They are taken whatever else happens, so this is only slack.
pub const COMMANDS: usize = 256;

/// The largest gossip message: an advert (4 KiB) and its envelope, with a margin; gossipsub's default is 64 KiB.
pub const MAX_GOSSIP: usize = 16 * 1024;
/// Messages that wait for a verdict; beyond this they are ignored.
pub const MAX_UNJUDGED: usize = 1024;
/// Gossipsub forgets an unjudged message after 5 heartbeats of 1 s; so do we.
pub const JUDGE_WITHIN: Duration = Duration::from_secs(4);
/// Gossip messages queued for one slow neighbour (the library's default is 5,000): × 2 KiB × 24 < 13 MiB at worst.
pub const GOSSIP_QUEUE: usize = 256;

/// How often the loop runs although nothing happened. Gossipsub's heartbeat of 1 s is late by at most this.
pub const TICK: Duration = Duration::from_millis(500);
/// Pings: latency for the ranking and proof of life. At the default 15 s they cost more than everything else.
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// QUIC keep-alive: under the 30 s after which NATs forget a UDP mapping.
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(25);
/// QUIC gives a silent peer up after this: two lost keep-alives.
pub const QUIC_IDLE: Duration = Duration::from_secs(60);
/// A connection that no stream uses; the neighbourhood decides who is kept, so this only catches leftovers.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(120);

/// Redialling bootstrap addresses while company is wanted: 1 s doubling to 30 s, with jitter.
pub const BOOTSTRAP_FIRST: Duration = Duration::from_secs(1);
pub const BOOTSTRAP_LAST: Duration = Duration::from_secs(30);
/// Bootstrap and remembered addresses that are taken from the caller.
pub const MAX_BOOTSTRAP: usize = 64;
/// Peers that we go back to first after a restart, each in another /16 (IPv6: /32), kept beyond the neighbours: one of
/// them that is honest is enough not to be alone with an attacker, and four networks are hard to have all of.
pub const ANCHORS: usize = 4;
/// Who has been a neighbour for this long may become one: visits and restarts are over by then.
pub const ANCHOR_AFTER: Duration = Duration::from_secs(600);
/// How often candidates are looked for while there are fewer.
pub const ANCHOR_LOOK: Duration = Duration::from_secs(60);
/// An anchor that is gone is dialled this often …
pub const ANCHOR_RETRY: Duration = Duration::from_secs(600);
/// … and given up after so many dials in vain: a day of running, while others could be reached.
pub const ANCHOR_FAILURES: u32 = 144;
/// Looking for more neighbours by a lookup of a random key: 5 s doubling to 10 min while it brings none.
pub const SEARCH_FIRST: Duration = Duration::from_secs(5);
pub const SEARCH_LAST: Duration = Duration::from_secs(600);
/// Peers that a search asks for: with those on the way to them, about as many visits as there are places to fill.
pub const SEARCH_FOR: usize = 4;
/// A server looks itself up this often, so that the nodes around it know it (DESIGN: hourly).
pub const REFRESH: Duration = Duration::from_secs(3600);
/// … and for the first time after this, or twice this at most: who is gone by then was not worth knowing, and when many
/// start at once they do not all call on everybody in the same second.
pub const REFRESH_FIRST: Duration = Duration::from_secs(15);
/// Servers that a lookup of a shard's holders ends with: the eight, and half as many again, by which views differ.
pub const HOLDERS_FOUND: usize = 12;
/// Servers around this node of which it knows: four times the holders of a shard.
pub const VICINITY: usize = 32;
/// How often it looks whether they have changed: a new holder is invited within this.
pub const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Peers that the node asks to keep: those that hold its adverts and its shards.
pub const MAX_PARTNERS: usize = 24;
/// Lookups at once; each costs some 20 requests.
pub const MAX_LOOKUPS: usize = 32;
/// Refusals of which the node was told lately: one event for each peer and reason in `REPORT_EVERY`.
pub const MAX_REPORTED: usize = 1024;
pub const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Addresses at which we may be reachable, and what is known of each: both transports, both IP versions, two routers,
/// and as many mistakes.
pub const MAX_EXTERNAL: usize = 16;
/// Of the addresses at which peers say they see us, so many are tested, those that most of their networks
/// agree on: both transports of both IP versions.
pub const MAX_CANDIDATES: usize = 4;
/// Peers whose verdict on an address counts, the latest: the majority of three is not one liar's.
pub const VERDICTS: usize = 3;
/// Networks that must have come in through a router before their word for its address is taken.
pub const WITNESSES: usize = 2;
/// A verdict on an address is forgotten after this: machines move.
pub const VERDICT_KEPT: Duration = Duration::from_secs(3600);
/// Addresses are tested again this often, at some 100 bytes each (30 to 100 KB for one that the tester does not see us
/// at) …
pub const RETEST: Duration = Duration::from_secs(900);
/// … and this often, so many times, while verdicts are few or differ.
pub const RETEST_SOON: Duration = Duration::from_secs(15);
pub const QUICK_TESTS: u32 = 6;
/// How far peers were away lately; for so long nobody need be met there again.
pub const HORIZON_KEPT: Duration = Duration::from_secs(600);
/// Addresses dialled lately: who comes in from one of them may have come through the hole that our dial made.
pub const MAX_SOUGHT: usize = 1024;
pub const SOUGHT_KEPT: Duration = Duration::from_secs(600);
/// Dials for company in one tick: joining a network takes a second, not a burst.
pub const COMPANY_DIALS: usize = 4;

/// Tests of whether they can be reached that we make for others in a minute: for one peer its candidates, 4 times and more …
pub const DIALBACKS_PER_PEER: usize = 24;
/// … for all peers of one site half of what there is, …
pub const DIALBACKS_PER_SITE: usize = 30;
/// … and for all, a dial a second.
pub const DIALBACKS: usize = 60;
/// A dial that takes longer is called a failure: long for a slow peer, and still within the 10 s for which the library
/// has the peer wait for the answer.
pub const DIALBACK_PATIENCE: Duration = Duration::from_secs(8);
/// Holes that we help to punch towards one peer in a minute: the library tries 3 times for each relayed connection.
pub const PUNCHES_PER_PEER: usize = 6;
/// For all that come by the relays of one site: half of what there is, for we are called by two.
pub const PUNCHES_PER_SITE: usize = 30;
/// For all of them: a dial costs a millisecond, and a router's table some of its places.
pub const PUNCHES: usize = 60;
/// The longest that a dial through a hole takes: the library's time-out, and both sides dial.
pub const PUNCH_TAKES: Duration = Duration::from_secs(20);
/// While a relayed connection lasts and no hole could be punched, it is tried again: soon, since who has just come
/// may not know yet how it is seen, once more when a loss is over, and then this seldom: routers change.
pub const PUNCH_AGAIN: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(600)];
/// Addresses of a peer that are dialled at once to punch a hole; the library dials 8 at a time.
pub const PUNCH_ADDRS: usize = 8;
/// Attempts after which the library's list of them is thrown away; it only grows.
pub const MAX_PUNCHES_KEPT: usize = 1024;

/// Addresses of ours that are announced: an advert has room for as many …
pub const ANNOUNCED: usize = 4;
/// … of this length: version 6, QUIC, a relay and both peer ids take 190.
pub const ANNOUNCED_BYTES: usize = 200;
/// Relays at which a node that nobody can reach has itself called: one may go away.
pub const RELAYS: usize = 2;
/// A relay that refused, or was lost, is not asked again before this: as long as a visitor's stay, thrice.
pub const RELAY_AVOID: Duration = Duration::from_secs(30);
/// A relay that says nothing has this long: the library waits for a minute.
pub const RELAY_ANSWER: Duration = Duration::from_secs(15);
/// A relayed or superfluous connection is closed this long after a better one is up: what was being said over it has
/// its answer by then (`RPC_TIMEOUT` is longer, and what is under way is waited for).
pub const SPARE_KEPT: Duration = Duration::from_secs(2);

/// Reservations that we give: each is a connection that stays, 64 × 150 KiB < 10 MiB.
pub const RELAY_RESERVATIONS: usize = 64;
/// … to peers behind one public address: a site behind one router.
pub const RELAY_RESERVATIONS_PER_IP: usize = 8;
/// … and in one block of addresses, which is one party's.
pub const RELAY_RESERVATIONS_PER_SITE: usize = 32;
/// A reservation is renewed within this by who still wants it.
pub const RELAY_RESERVATION_LIFE: Duration = Duration::from_secs(3600);
/// Relayed connections at once; each holds two buffers of `RELAY_BUFFER` and up to 512 KiB of the streams' windows.
pub const RELAY_CIRCUITS: usize = 128;
/// … that one peer has opened: a requestor with VMs at so many providers behind routers.
pub const RELAY_CIRCUITS_PER_PEER: usize = 16;
/// … that lead to one holder of a reservation: its tenants, and some who look.
pub const RELAY_CIRCUITS_PER_HOLDER: usize = 32;
/// A relayed connection ends after this: a working day's session fits; then it is dialled anew.
pub const RELAY_CIRCUIT_LIFE: Duration = Duration::from_secs(12 * 3600);
/// … or after so many bytes, both ways together: an image or two.
pub const RELAY_CIRCUIT_BYTES: u64 = 8 << 30;
/// What is carried for one holder in a `RELAY_WINDOW`, both ways together: all 64 holders at once use 1 TiB a day,
/// some 100 Mbit/s. The holder pays, not who calls: it alone chose this relay.
pub const RELAY_BUDGET: u64 = 16 << 30;
pub const RELAY_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Holders whose bytes are remembered until their window ends; with so many no newcomer gets a reservation.
pub const RELAY_ACCOUNTS: usize = 1024;
/// Each way of a relayed connection.
pub const RELAY_BUFFER: usize = 32 * 1024;
/// Requests for a reservation that one peer may make at once, and then every …
pub const RELAY_ASKS: u32 = 30;
pub const RELAY_ASKS_EVERY: Duration = Duration::from_secs(120);
/// … and those behind one address.
pub const RELAY_ASKS_PER_IP: u32 = 60;
pub const RELAY_ASKS_PER_IP_EVERY: Duration = Duration::from_secs(60);
/// Relayed connections that one peer may ask for at once, and then every …: each makes the holder work, too.
pub const RELAY_CALLS: u32 = 30;
pub const RELAY_CALLS_EVERY: Duration = Duration::from_secs(10);
/// … and those behind one address.
pub const RELAY_CALLS_PER_IP: u32 = 60;
pub const RELAY_CALLS_PER_IP_EVERY: Duration = Duration::from_secs(2);
