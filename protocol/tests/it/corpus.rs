//! Replays the fuzzers' corpus through the fuzz targets' own bodies, so that what a fuzzer once found stays mended, and so
//! that the bodies compile.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use std::path::PathBuf;

use millrace_protocol::*;

fn replay(target: &str, body: impl Fn(&[u8])) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let files: Vec<Vec<u8>> = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    files.iter().for_each(|bytes| body(bytes));
    files
}

/// Every file, cut off anywhere and with any one byte another: what a fuzzer tries first.
fn spoil(files: &[Vec<u8>], body: impl Fn(&[u8])) {
    for bytes in files {
        for at in 0..bytes.len() {
            body(&bytes[..at]);
            for flip in [1, 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] ^= flip;
                body(&other);
            }
        }
    }
}

#[test]
fn fuzz_corpus_is_decoded_without_a_panic() {
    let records = replay("record", bodies::record);
    let items = replay("item", bodies::item);
    let chunks = replay("chunk", bodies::chunk);
    assert!(records.len() >= 7 && items.len() >= 7 && chunks.len() >= 2);
    assert!(records.iter().all(|bytes| Record::decode(bytes).is_ok()), "they reach the decoder's inside");
    assert!(items.iter().all(|bytes| Item::decode(bytes).is_ok()), "they reach the decoder's inside");
    spoil(&records, bodies::record);
    spoil(&items, bodies::item);
    spoil(&chunks, bodies::chunk);
}

#[test]
fn every_fuzz_target_has_a_body_and_a_corpus() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(fuzz.join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("fuzz_targets"), names("corpus"));
    let bodies = std::fs::read_to_string(fuzz.join("bodies.rs")).unwrap();
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names("fuzz_targets") {
        let target = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("bodies::{name}(data)")), "{name}");
        assert!(bodies.contains(&format!("pub(crate) fn {name}(data: &[u8])")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
