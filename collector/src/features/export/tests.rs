//! The exported repository against golden files, which are read when this runs.

use std::sync::Arc;

use millrace_preprocess::{FeatureColumn, ViewSchema};

use super::*;
use crate::features::view::NamedFeatures;
use millrace_preprocess::FeatureType::{Bool, F64, I64, Text};

fn view(name: &str, version: u32, promotion: Option<u64>, ttl_us: i64, entity: &str) -> ActiveView {
    let column = |(name, feature_type, unit): (&str, _, Option<&str>)| FeatureColumn {
        name: name.into(),
        feature_type,
        unit: unit.map(Into::into),
    };
    let features = [
        ("temp_mean", F64, Some("degC")),
        ("starts", I64, None),
        ("running", Bool, None),
        ("mode", Text, None),
    ];
    let schema = ViewSchema {
        name: name.into(),
        version,
        entity: entity.into(),
        features: features.map(column).into(),
        ttl_us,
        graph_hash: 0xabc,
    };
    ActiveView { schema: Arc::new(schema), promotion }
}

#[test]
fn golden_repository_is_made_byte_for_byte() {
    let views = [
        view("press_health_1m", 1, Some(1), 3_600_000_000, "machine"),
        view("press_health_1m", 2, None, 500_000, "machine"),
        view("line_shift", 1, Some(1), 0, "line"),
    ];
    let services = [NamedService {
        name: "press_anomaly_v1".into(),
        features: vec![
            NamedFeatures { view: "press_health_1m".to_owned(), features: vec![], whole: true },
            NamedFeatures {
                view: "line_shift".to_owned(),
                features: vec!["starts".into(), "mode".into()],
                whole: false,
            },
        ],
    }];
    let repository = Repository {
        project: "plant",
        online_file: Path::new("/var/lib/millrace/online.db"),
        parquet_folder: Path::new("/var/lib/millrace/features"),
        views: &views,
        services: &services,
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/feast_repository");
    let folder = tempfile::tempdir().unwrap();
    for path in repository.write(folder.path()).unwrap() {
        let made = fs::read_to_string(&path).unwrap();
        let expected = fs::read_to_string(golden.join(path.file_name().unwrap())).unwrap_or_default();
        assert_eq!(made, expected, "{}", path.display());
    }
}
