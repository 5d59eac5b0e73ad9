//! Every committed input once through its target, without libFuzzer and on any compiler.
use std::path::Path;

#[test]
fn what_was_found_stays_mended() {
    for (name, target) in fuzz::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files: Vec<_> =
            std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{name}: {error}")).flatten().collect();
        assert!(!files.is_empty(), "{name} begins with nothing");
        for file in files {
            let data = std::fs::read(file.path()).expect("own file");
            assert!(data.len() < 4096, "{} is too large to be kept", file.path().display());
            println!("{}", file.path().display());
            target(&data);
        }
    }
}
