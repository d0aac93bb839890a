//! Rows, births and views for tests.

use std::sync::Arc;

use millrace_preprocess::{
    BatchDriver, Catalog, FeatureRow, FeatureValue, InputRow, SourceFile, View, compile,
};
use millrace_protocol::*;

pub(crate) const S: i64 = 1_000_000;
pub(crate) const STALL: i64 = 600 * S;

/// Compiles one view over the kind of all machines.
pub(crate) fn catalog(text: &str) -> Arc<Catalog> {
    let file = SourceFile { name: "test.toml".to_owned(), text: text.to_owned() };
    match compile(&[file], &|_| Err("no files here".to_owned())) {
        Ok(catalog) => Arc::new(catalog),
        Err(problems) => {
            panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Makes a view from its window line and its features.
pub(crate) fn view(window: &str, features: &[(&str, &str)]) -> Arc<View> {
    let mut text = format!(
        "[[kind]]\nname = \"press\"\nmachines = [\"*\"]\nattributes = [{{ machine = \"h/m\", rated = 4, line = \"L1\" }}]\n\
         [[feature_view]]\nname = \"v\"\nkind = \"press\"\nlateness = \"0 s\"\n{window}\n[feature_view.features]\n"
    );
    for (name, expr) in features {
        text.push_str(&format!("{name} = \"{expr}\"\n"));
    }
    Arc::clone(&catalog(&text).views()[0])
}

pub(crate) fn machine() -> MachineName {
    MachineName::new("h/m").unwrap()
}

pub(crate) fn stream(agent: &str, epoch: u64, category: &str) -> Arc<StreamId> {
    Arc::new(StreamId {
        agent: AgentId::new(agent).unwrap(),
        epoch: Epoch(epoch),
        machine: machine(),
        category: Category::new(category).unwrap(),
    })
}

pub(crate) fn birth_tag(name: &str, hold_us: i64, counter_modulus: Option<u64>) -> BirthTag {
    BirthTag {
        name: name.into(),
        value_type: None,
        unit: None,
        source: "test".into(),
        reporting: Reporting::Cyclic { interval_us: S },
        hold_us,
        counter_modulus,
    }
}

/// Makes a row of some tags; its append time is its event time unless told.
pub(crate) fn row(stream: &Arc<StreamId>, seq: u64, time_us: i64, cells: &[(&str, Cell)]) -> InputRow {
    let columns = cells.iter().map(|(tag, cell)| LayoutColumn {
        tag: (*tag).into(),
        value_type: cell.value().map_or(ValueType::F64, Value::value_type),
    });
    InputRow {
        stream: Arc::clone(stream),
        seq,
        time_us,
        append_us: time_us,
        flags: RowFlags::default(),
        layout: Arc::new(Layout::new(columns.collect())),
        cells: cells.iter().map(|(_, cell)| cell.clone()).collect(),
    }
}

pub(crate) fn num(x: f64) -> Cell {
    Cell::Good(Value::F64(x))
}

pub(crate) fn text(x: &str) -> Cell {
    Cell::Good(Value::Text(x.into()))
}

/// Runs one view over points of `x`: time in seconds, value.
pub(crate) fn run(
    view: &Arc<View>,
    births: &Birth,
    rows: &[InputRow],
    from_s: i64,
    to_s: i64,
) -> Vec<FeatureRow> {
    let mut driver = BatchDriver::new(Arc::clone(view), &machine(), STALL);
    for row in rows {
        driver.birth(&row.stream, births);
    }
    driver.rows(rows);
    driver.run(from_s * S, to_s * S)
}

pub(crate) fn f64_of(row: &FeatureRow, name: &str) -> Option<f64> {
    let at = row.view.features.iter().position(|f| &*f.name == name).unwrap();
    match row.values[at].as_ref()? {
        FeatureValue::F64(x) => Some(*x),
        FeatureValue::I64(n) => Some(*n as f64),
        other => panic!("{other:?} is no number"),
    }
}
