//! Golden texts of problems, and what files compile to.

use super::*;
use crate::feature::FeatureType;
use crate::graph::{Mode, Window};

fn source(text: &str) -> SourceFile {
    SourceFile { name: "press.toml".to_owned(), text: text.to_owned() }
}

fn compiled(text: &str) -> Result<Catalog, Vec<String>> {
    let attributes = |name: &str| match name {
        "press.csv" => Ok("machine,line,rated_kw\nhall3/press-01,L1,7.5\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    compile(&[source(text)], &attributes).map_err(|p| p.iter().map(ToString::to_string).collect())
}
