//! A provider that is killed in the midst of its work. `make crash-test` does so hundreds of times.
use std::time::Duration;
use tests::crash::{Aims, suffer};
use tests::guest;

#[test]
fn a_provider_killed_in_the_midst_of_its_work_leaks_and_loses_nothing() {
    let Some(bundle) = guest("tiny") else { return };
    let mut kills = 0;
    suffer(&bundle, 4, 6, &mut Aims::default(), |killed| {
        println!("{}", killed.to_json());
        assert_eq!(killed.amiss, None, "{killed:?}");
        assert!(killed.mended < Duration::from_secs(60), "{killed:?}");
        kills += 1;
    });
    assert_eq!(kills, 6);
}
