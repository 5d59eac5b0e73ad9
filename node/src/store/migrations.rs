//! From one layout of the store to the next. A change of a stored type that older rows do not decode as counts `SCHEMA`
//! up and adds a step here; a field with a default needs neither.
use super::{Part, RawRow};
use protocol::Fault;

/// In order. None yet: the first layout is the one in use.
pub(super) const ALL: &[Migration] = &[];

/// A step from the layout `from` to the next one. It is told all rows and says what becomes of them; both are in memory
/// at once, which is a few MB.
pub(super) struct Migration {
    pub from: u32,
    pub run: fn(&[RawRow]) -> Result<Vec<Change>, Fault>,
}

/// What becomes of a row.
pub(super) struct Change {
    pub part: Part,
    pub key: Vec<u8>,
    /// None removes it.
    pub value: Option<Vec<u8>>,
}

/// Nothing leads from the layout that was found to ours.
pub(super) fn no_way(found: u32, newest: u32) -> Fault {
    let whose = if found > newest { "a newer" } else { "another" };
    Fault::internal(format!("the store was written by {whose} version of golemnode (layout {found}, not {newest})"))
        .hint("run the version that wrote it, or use another --home")
}
