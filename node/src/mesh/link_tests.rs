use super::*;
use proptest::prelude::*;
use tokio_util::compat::TokioAsyncReadCompatExt;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn peer(n: u8) -> PeerId {
    protocol::Keypair::from_secret(&[n; 32]).peer_id()
}

#[test]
fn both_ends_of_a_link_agree_and_links_differ() {
    let ms = Duration::from_millis;
    let links = Links::uniform(ms(20)..=ms(50), 7);
    let mut seen = std::collections::BTreeSet::new();
    for one in 0..20 {
        for other in 0..one {
            let delay = links.delay(peer(one), peer(other));
            assert_eq!(delay, links.delay(peer(other), peer(one)));
            assert_eq!(delay, Links::uniform(ms(20)..=ms(50), 7).delay(peer(one), peer(other)));
            assert!((ms(20)..=ms(50)).contains(&delay));
            seen.insert(delay);
        }
    }
    let mean = seen.iter().sum::<Duration>() / seen.len() as u32;
    assert!(seen.len() > 180 && (ms(30)..ms(40)).contains(&mean), "{} {mean:?}", seen.len());
    let lopsided = Links::new(move |one, _| if one == peer(1) { ms(1) } else { ms(2) });
    assert_eq!(lopsided.delay(peer(1), peer(2)), lopsided.delay(peer(2), peer(1)));
}

#[test]
fn a_handshake_takes_its_round_trips() {
    runtime().block_on(async {
        let delay = Duration::from_millis(30);
        let links = Links::new(move |_, _| delay);
        let (one, other) = tokio::io::duplex(1 << 16);
        let began = Instant::now();
        let dialler = async {
            let mut link = meet(one.compat(), peer(1), true, links.clone()).await.unwrap();
            assert_eq!(began.elapsed(), delay * 2);
            link.write_all(b"ask").await.unwrap();
            let mut answer = [0; 3];
            link.read_exact(&mut answer).await.unwrap();
            assert_eq!((began.elapsed(), &answer), (delay * 4, b"yes"));
        };
        let listener = async {
            let mut link = meet(other.compat(), peer(2), false, links.clone()).await.unwrap();
            let mut asked = [0; 3];
            link.read_exact(&mut asked).await.unwrap();
            assert_eq!((began.elapsed(), &asked), (delay * 3, b"ask"));
            link.write_all(b"yes").await.unwrap();
        };
        futures::join!(dialler, listener);
    });
}

#[test]
fn a_link_holds_no_more_than_its_bound() {
    runtime().block_on(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut far = Linked::new(far.compat(), Duration::from_secs(1));
        let mut near = near.compat();
        let writer = async {
            let mut written = 0;
            // A second passes before the first byte may be read; until then the link takes its bound and no more.
            let more = async {
                loop {
                    written += near.write(&[0; 1000]).await.unwrap();
                }
            };
            assert!(tokio::time::timeout(Duration::from_millis(900), more).await.is_err());
            written
        };
        let mut byte = [0; 1];
        let reader = tokio::time::timeout(Duration::from_millis(900), far.read_exact(&mut byte));
        let (written, read) = futures::join!(writer, reader);
        assert!(read.is_err());
        assert!((MAX_UNDER_WAY..MAX_UNDER_WAY + CHUNK + 64 * 1024).contains(&written), "{written}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Chunks of any size with any pauses between them, read by bites of any size: all bytes come, in order, none
    /// before its time, and none later than the clock's grain when the reader waits for it.
    #[test]
    fn a_link_delays_and_changes_nothing_else(
        delay in 0..100u64,
        chunks in prop::collection::vec((1..9000usize, 0..40u64), 1..12),
        bite in 1..6000usize,
    ) {
        let delay = Duration::from_millis(delay);
        let total: usize = chunks.iter().map(|(length, _)| length).sum();
        let sent: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
        let (sent_at, came) = runtime().block_on(async {
            let (near, far) = tokio::io::duplex(1 << 20);
            let mut far = Linked::new(far.compat(), delay);
            let mut near = near.compat();
            let writer = async {
                let (mut at, mut sent_at) = (0, Vec::new());
                for (length, pause) in chunks {
                    near.write_all(&sent[at..at + length]).await.unwrap();
                    at += length;
                    sent_at.push((at, Instant::now()));
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                drop(near);
                sent_at
            };
            let reader = async {
                let (mut came, mut buf) = (Vec::new(), vec![0; bite]);
                loop {
                    let length = far.read(&mut buf).await.unwrap();
                    if length == 0 {
                        break came;
                    }
                    came.push((buf[..length].to_vec(), Instant::now()));
                }
            };
            futures::join!(writer, reader)
        });
        prop_assert_eq!(came.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>(), sent);
        let mut at = 0;
        for (bytes, when) in came {
            let (_, written) = sent_at.iter().find(|(end, _)| at < *end).unwrap();
            let took = when - *written;
            prop_assert!(took >= delay && took <= delay + Duration::from_millis(2), "{took:?} for {delay:?}");
            at += bytes.len();
        }
    }
}
