//! What people, files and JSON write: sizes, names, ids, money.
use protocol::Fault;
use protocol::PeerId;
use protocol::money::Amount;
use protocol::names::{
    Arch, BackendKind, Country, CreateId, Currency, Digest, GuestUser, ImageName, IsolationWanted, LeaseId, Network,
    NodeName, PeerAddr, QuoteId, VmName,
};
use protocol::text::{is_plain, plain, plain_lines};
use protocol::units::{DiskGib, MemoryMib, Millis, Resources, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// A fault quotes what was wrong, but not a whole file of it.
const FAULT: usize = 4096;

pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    one_line(text);
    sizes(text);
    if let Some(name) = name::<VmName>(text) {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.as_str().len() <= 63 && name.as_str().chars().all(label));
    }
    if let Some(image) = name::<ImageName>(text) {
        assert!(!image.as_str().contains(['/', '\\', '\0', '\n']) && !image.as_str().contains(".."));
    }
    for name in [
        name::<Country>(text).map(String::from),
        name::<Currency>(text).map(String::from),
        name::<Network>(text).map(String::from),
        name::<NodeName>(text).map(String::from),
        name::<BackendKind>(text).map(String::from),
        name::<GuestUser>(text).map(String::from),
    ]
    .into_iter()
    .flatten()
    {
        assert!(name.len() <= 63 && name.chars().all(|c| c.is_ascii_graphic()), "{name:?}");
    }
    if let Some(addr) = name::<PeerAddr>(text) {
        assert!(addr.as_str().chars().all(is_plain));
    }
    name::<LeaseId>(text);
    name::<CreateId>(text);
    name::<QuoteId>(text);
    name::<Digest>(text);
    if let Some(peer) = name::<PeerId>(text) {
        assert_eq!(PeerId::from_multihash(&peer.to_multihash()).ok(), Some(peer));
        assert!(text.ends_with(&peer.short()));
    }
    let _ = (Resources::named(text), text.parse::<IsolationWanted>());
    if let Ok(arch) = text.parse::<Arch>() {
        assert_eq!(arch.to_string().parse::<Arch>().ok(), Some(arch));
    }
}

/// A value prints as what it is read from, and JSON takes and refuses the same.
fn name<T>(text: &str) -> Option<T>
where
    T: FromStr<Err = Fault> + Display + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let quoted = serde_json::to_string(text).expect("a text is JSON");
    let by_json = serde_json::from_str::<T>(&quoted);
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
            assert_eq!(by_json.ok().as_ref(), Some(&value));
            Some(value)
        }
        Err(fault) => {
            assert!(by_json.is_err() && fault.hint.is_some(), "{fault}");
            assert!(fault.message.len() <= FAULT);
            None
        }
    }
}

fn sizes(text: &str) {
    if let Ok(memory) = text.parse::<MemoryMib>() {
        assert_eq!(memory.to_string().parse::<MemoryMib>().ok(), Some(memory));
        assert_eq!(memory.bytes() >> 20, memory.0);
    }
    if let Ok(disk) = text.parse::<DiskGib>() {
        assert_eq!(disk.to_string().parse::<DiskGib>().ok(), Some(disk));
    }
    if let Ok(time) = text.parse::<Millis>() {
        let printed: Millis = time.to_string().parse().expect("a duration prints as one");
        assert!(printed <= time && time.0 - printed.0 <= (time.0 / 24).max(1000), "{time:?} as {printed}");
        assert!(Timestamp(0) + time >= Timestamp(0));
    }
    if let Some(amount) = name::<Amount>(text) {
        assert!(!amount.decimal().is_sign_negative() || amount.is_zero());
        let bill = amount.over(Millis(text.len() as u64 * 3_600_000));
        assert!(!bill.is_sign_negative() || bill.is_zero());
        amount.over(Millis(u64::MAX));
    }
}

fn one_line(text: &str) {
    let most = text.len() / 2;
    let (line, lines) = (plain(text, most), plain_lines(text, most));
    assert!(line.chars().all(is_plain) && lines.chars().all(|c| c == '\n' || is_plain(c)));
    assert!(line.chars().count() <= most && lines.chars().count() == line.chars().count());
    assert_eq!((plain(&line, most), plain_lines(&lines, most)), (line.clone(), lines.clone()), "it is so already");
    if text.chars().all(is_plain) {
        assert!(text.starts_with(&line), "what is plain stays as it is");
    }
}
