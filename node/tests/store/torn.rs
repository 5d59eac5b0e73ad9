//! A log whose end was cut off, or of which a byte is another: what was flushed before that place is there, or the store
//! refuses to open.
use super::support::{commit, copy, held, open};
use std::collections::BTreeMap;
use std::path::Path;

/// Commits and their size: some of one segment, then several segments whose pages are written anew.
const SMALL: (u64, usize) = (40, 200);
const LARGE: (u64, usize) = (150, 4000);

/// A store with these commits, and the length of its log after each.
fn written(dir: &Path, (commits, size): (u64, usize)) -> Vec<u64> {
    let store = open(dir).unwrap();
    let length = |n| {
        store.commit(&commit(n, size)).unwrap();
        dir.join("db").metadata().unwrap().len()
    };
    (0..commits).map(length).collect()
}

/// Damages a copy of the store; how many commits it then holds, None when it refuses.
fn damaged(dir: &Path, size: usize, damage: impl FnOnce(&mut Vec<u8>)) -> Option<u64> {
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    let log = copied.path().join("db");
    let mut bytes = std::fs::read(&log).unwrap();
    damage(&mut bytes);
    std::fs::write(&log, bytes).unwrap();
    open(copied.path()).ok().map(|store| held(&store, size))
}

#[test]
fn of_a_log_cut_short_everything_before_the_cut_is_there() {
    let (dir, (commits, size)) = (tempfile::tempdir().unwrap(), SMALL);
    let ends = written(dir.path(), SMALL);
    let (start, end) = (ends[0], ends[ends.len() - 1]);
    assert!(ends.is_sorted(), "this log only grows");
    let mut refused = 0;
    for cut in (start..=end).step_by(211).chain(end - 20..=end) {
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        match damaged(dir.path(), size, |bytes| bytes.truncate(cut as usize)) {
            Some(held) => assert!((whole..=commits).contains(&held), "cut at {cut}: {held} of {whole}"),
            None => refused += 1,
        }
    }
    println!("{commits} commits in {} bytes of log, cut anywhere: {refused} refusals", end - start);
}

#[test]
fn of_a_log_with_another_byte_everything_before_it_is_there() {
    let (dir, (commits, size)) = (tempfile::tempdir().unwrap(), SMALL);
    let ends = written(dir.path(), SMALL);
    let (start, end) = (ends[0], ends[ends.len() - 1]);
    let mut lost: BTreeMap<Option<u64>, u32> = BTreeMap::new();
    for at in (start..end).step_by(223) {
        let whole = ends.iter().filter(|end| **end <= at).count() as u64;
        let held = damaged(dir.path(), size, |bytes| bytes[at as usize] ^= 0x10);
        assert!(held.is_none_or(|held| (whole..=commits).contains(&held)), "at {at}: {held:?} of {whole}");
        *lost.entry(held.map(|held| held - whole)).or_default() += 1;
    }
    println!("commits that survive behind the changed byte, and how often (None: refused): {lost:?}");
}

/// Segments are used again here, so a place in the file is no place in time: what is there is a beginning all the same.
#[test]
fn of_a_log_of_many_segments_a_beginning_is_there_or_it_is_refused() {
    let (dir, (commits, size)) = (tempfile::tempdir().unwrap(), LARGE);
    let end = *written(dir.path(), LARGE).last().unwrap();
    let mut seen: BTreeMap<Option<u64>, u32> = BTreeMap::new();
    for n in 0..12 {
        let cut = damaged(dir.path(), size, |bytes| bytes.truncate((end - 1 - n * 9_973) as usize));
        let flipped = damaged(dir.path(), size, |bytes| bytes[(end - 1 - n * 9_973) as usize] ^= 0x10);
        for held in [cut, flipped] {
            *seen.entry(held).or_default() += 1;
        }
    }
    println!("{commits} commits, {end} bytes of log, damaged in the last 110 kB; held (None: refused): {seen:?}");
}
