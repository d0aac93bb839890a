//! The body of `POST /get-online-features`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value as Json, json};

use super::problem::Problem;
use crate::features::feast::{Value, value_text};

/// What is asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    pub(super) features: Vec<String>,
    #[serde(default)]
    pub(super) feature_service: Option<String>,
    pub(super) entities: Entities,
    #[serde(default)]
    pub(super) full_feature_names: bool,
    #[serde(default)]
    pub(super) include_feature_view_version_metadata: bool,
    /// Millrace's own: also age, coverage and revision.
    #[serde(default)]
    pub(super) include_freshness: bool,
}

/// Columns of entity values, in the order of the request.
#[derive(Debug, Default)]
pub(super) struct Entities(pub(super) Vec<(String, Vec<EntityValue>)>);

/// An entity's value as text, which is what Feast makes of every value of a string entity; `None` for null.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EntityValue(pub(super) Option<String>);

impl<'de> Deserialize<'de> for EntityValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = EntityValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entity's value: a text, a number, true, false or null")
            }

            fn visit_str<E>(self, text: &str) -> Result<EntityValue, E> {
                Ok(EntityValue(Some(text.to_owned())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<EntityValue, E> {
                Ok(EntityValue(Some(number.to_string())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<EntityValue, E> {
                Ok(EntityValue(Some(number.to_string())))
            }

            fn visit_f64<E>(self, number: f64) -> Result<EntityValue, E> {
                Ok(EntityValue(value_text(&Value::Float64(number))))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<EntityValue, E> {
                Ok(EntityValue(value_text(&Value::Bool(truth))))
            }

            fn visit_unit<E>(self) -> Result<EntityValue, E> {
                Ok(EntityValue(None))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Entities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entities;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of join keys, each with a list of values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entities, M::Error> {
                let mut columns: Vec<(String, Vec<EntityValue>)> = Vec::new();
                while let Some((key, values)) = map.next_entry::<String, Vec<EntityValue>>()? {
                    match columns.iter_mut().find(|(known, _)| *known == key) {
                        // As in Python, the last one of a name counts.
                        Some(column) => column.1 = values,
                        None => columns.push((key, values)),
                    }
                }
                Ok(Entities(columns))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Parses a body.
pub(super) fn parse(body: &[u8]) -> Result<Request, Problem> {
    serde_json::from_slice(body).map_err(|error| explain(body, &error))
}

/// Finds out what is wrong with a body, as FastAPI would say it.
fn explain(body: &[u8], error: &serde_json::Error) -> Problem {
    let problem = |kind, location, message: &str, input| Problem::Body {
        kind,
        location,
        message: message.to_owned(),
        input: Box::new(input),
    };
    if serde_json::from_slice::<IgnoredAny>(body).is_err() {
        return problem("json_invalid", vec![json!(error.column())], "JSON decode error", json!({}));
    }
    let input: Json = serde_json::from_slice(body).unwrap_or_default();
    let Some(fields) = input.as_object() else {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return problem("model_attributes_type", vec![], message, input);
    };
    let Some(entities) = fields.get("entities") else {
        return problem("missing", vec![json!("entities")], "Field required", input.clone());
    };
    let Some(columns) = entities.as_object() else {
        let message = "Input should be a valid dictionary";
        return problem("dict_type", vec![json!("entities")], message, entities.clone());
    };
    if let Some((name, column)) = columns.iter().find(|(_, column)| !column.is_array()) {
        let location = vec![json!("entities"), json!(name)];
        return problem("list_type", location, "Input should be a valid list", column.clone());
    }
    if let Some(features) = fields.get("features").filter(|features| !features.is_array()) {
        return problem(
            "list_type",
            vec![json!("features")],
            "Input should be a valid list",
            features.clone(),
        );
    }
    let mut message = error.to_string();
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    problem("value_error", vec![], &message, input.clone())
}
