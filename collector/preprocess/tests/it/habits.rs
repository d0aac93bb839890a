//! What the crate must not do, looked for in its own text (F2).

use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs")
            && path.file_name().is_some_and(|n| n != "tests.rs")
        {
            found.push(path);
        }
    }
}

#[test]
fn nothing_depends_on_clocks_hash_order_threads_or_fused_arithmetic() {
    let mut found = Vec::new();
    sources(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20);
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for banned in [
            "HashMap",
            "HashSet",
            "SystemTime",
            "Instant::now",
            "mul_add",
            ".ln()",
            ".exp()",
            ".powf(",
            ".powi(",
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "tokio",
            "rand::",
        ] {
            let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            assert!(!lines.any(|line| line.contains(banned)), "{} has {banned}", path.display());
        }
    }
}
