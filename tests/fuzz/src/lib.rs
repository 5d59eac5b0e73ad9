//! Hostile input for every decoder. Each function here is a target: it takes bytes, and panics when something is not
//! as it must be. `fuzz_targets/` has a program for each, `corpus/` what they begin with, `examples/seeds.rs` makes
//! those from real messages, and `tests/tools/fuzz.sh` runs them.
//!
//! What is held everywhere: what decodes is encoded again to what decodes equal, what does not decode is not kept,
//! what grows has a bound, and whatever of it is shown is plain (`protocol::text`).
mod board;
mod guests;
mod images;
mod input;
mod leases;
mod local;
mod mesh;
mod messages;
mod stored;
mod text;
pub mod world;

pub use board::board;
pub use guests::{guest_answers, seed, ssh_server};
pub use images::{catalogue, checksums, disk_info, http_headers, manifest, raw_disk};
pub use input::{Bytes, Record};
pub use leases::{CHAIN, lease_document};
pub use local::{api_answers, api_requests, settings};
pub use mesh::{addresses, mesh_codec};
pub use messages::{KINDS, envelope, frame_request, frame_response, posting, tunnel};
pub use stored::stored;
pub use text::text;
pub use world::core;

use protocol::text::is_plain;
use serde::{Serialize, de::DeserializeOwned};

pub type Target = fn(&[u8]);

/// Every target by its name, for the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame_request", frame_request),
    ("frame_response", frame_response),
    ("posting", posting),
    ("envelope", envelope),
    ("tunnel", tunnel),
    ("lease_document", lease_document),
    ("text", text),
    ("board", board),
    ("core", core),
    ("stored", stored),
    ("mesh_codec", mesh_codec),
    ("addresses", addresses),
    ("settings", settings),
    ("api_requests", api_requests),
    ("api_answers", api_answers),
    ("manifest", manifest),
    ("checksums", checksums),
    ("catalogue", catalogue),
    ("disk_info", disk_info),
    ("raw_disk", raw_disk),
    ("http_headers", http_headers),
    ("guest_answers", guest_answers),
    ("ssh_server", ssh_server),
    ("seed", seed),
];

/// Makes a target's program: libFuzzer's under cargo-fuzz, otherwise one that runs the files it is given.
#[macro_export]
macro_rules! program {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$target(data));
        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay($crate::$target)
        }
    };
}

/// Runs the files that the command line names.
pub fn replay(target: Target) {
    for file in std::env::args_os().skip(1) {
        target(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
}

/// A peer's words on their way to a terminal, a log or a list.
#[track_caller]
fn must_be_plain(shown: &str, most: usize) {
    assert!(shown.chars().all(|c| c == '\n' || is_plain(c)), "not plain: {shown:?}");
    assert!(shown.chars().count() <= most, "{} characters, more than {most}", shown.chars().count());
}

/// What was read from JSON is written and read again as the same.
#[track_caller]
fn json_again<T: Serialize + DeserializeOwned>(value: &T) -> String {
    let written = serde_json::to_string(value).expect("what was read can be written");
    let again: T = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error} in {written}"));
    assert_eq!(serde_json::to_string(&again).expect("as before"), written);
    written
}
