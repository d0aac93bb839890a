//! Why a request is refused, in the words and bodies of Feast's server.

use serde_json::{Value as Json, json};

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Problem {
    /// The body is not what the schema says; FastAPI's form.
    Body {
        /// FastAPI's name of the error.
        kind: &'static str,
        /// Where.
        location: Vec<Json>,
        /// What.
        message: String,
        /// The offending value.
        input: Box<Json>,
    },
    /// A view that is not there.
    NoView { view: String, project: String },
    /// A feature service that is not there.
    NoService { service: String, project: String },
    /// Two features of one name.
    Collision { names: Vec<String>, full_names: bool },
    /// A word of `?compat=` that is none; Feast knows no such parameter.
    Compat(String),
    /// Everything for which Feast answers 500 with a text.
    Other(String),
}

impl Problem {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Body { .. } => 422,
            Self::Compat(_) => 400,
            Self::NoView { .. } | Self::NoService { .. } => 404,
            Self::Collision { .. } | Self::Other(_) => 500,
        }
    }

    pub(super) fn body(&self) -> String {
        match self {
            Self::Body { kind, location, message, input } => {
                let mut path = vec![json!("body")];
                path.extend(location.iter().cloned());
                json!({"detail": [{"type": kind, "loc": path, "msg": message, "input": input}]}).to_string()
            }
            Self::NoView { view, project } => {
                let text = format!("Feature view {view} does not exist in project {project}");
                feast_error("FeatureViewNotFoundException", &text)
            }
            Self::NoService { service, project } => {
                let text = format!("Feature service {service} does not exist in project {project}");
                feast_error("FeatureServiceNotFoundException", &text)
            }
            Self::Collision { names, full_names } => {
                let advice = if *full_names {
                    "please ensure that the feature views or their own features have different names. If you're \
                     intentionally joining the same feature view twice on different sets of entities, please \
                     rename one of the feature views with '.with_name'."
                } else {
                    "either use the full feature name by setting 'full_feature_names=True', or ensure that the \
                     features in question have different names."
                };
                let names = names.join(", ");
                let text =
                    format!("Duplicate features named {names} found.\nTo resolve this collision, {advice}");
                feast_error("FeatureNameCollisionError", &text)
            }
            Self::Compat(word) => {
                json!({"detail": format!("there is no compat={word}; use go or python")}).to_string()
            }
            Self::Other(text) => json!(text).to_string(),
        }
    }
}

/// Writes an error as Feast does: a JSON string that holds JSON, with Python's separators.
fn feast_error(class: &str, message: &str) -> String {
    let (class, message) = (json!(class), json!(message));
    let inner = format!("{{\"module\": \"feast.errors\", \"class\": {class}, \"message\": {message}}}");
    json!(inner).to_string()
}
