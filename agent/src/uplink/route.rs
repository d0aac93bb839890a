//! Which topic a category goes to (D3): its own where it exists, else `telemetry` for the rest of the
//! epoch.
//!
//! Invariant: a topic is used only after the metadata said that it is there; librdkafka says nothing
//! for half a minute when it is not.

use std::collections::HashMap;

use millrace_protocol::{Category, DEFAULT_CATEGORY};

/// What the metadata says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicAnswer {
    /// It is there.
    Present,
    /// It is not there, or this agent may not use it, in librdkafka's words.
    Absent(String),
    /// Nobody answered, or the broker is not ready: ask again.
    Unknown(String),
}

/// Where a record goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this topic.
    Topic(String),
    /// The metadata must be asked for this topic first.
    Ask(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Own,
    FallsBack,
}

/// The routes of one epoch.
#[derive(Debug)]
pub(super) struct Routes {
    prefix: String,
    known: HashMap<Category, Known>,
    is_default_there: bool,
}

impl Routes {
    /// Begins with nothing known.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), known: HashMap::new(), is_default_there: false }
    }

    /// Says where a category's records go.
    pub(super) fn route(&self, category: &Category) -> Route {
        if category.as_str() == DEFAULT_CATEGORY {
            return self.default_route();
        }
        match self.known.get(category) {
            Some(Known::Own) => Route::Topic(self.topic(category.as_str())),
            Some(Known::FallsBack) => self.default_route(),
            None if is_topic_name(category.as_str()) => Route::Ask(self.topic(category.as_str())),
            // Kafka has no such name, so there is nothing to ask.
            None => self.default_route(),
        }
    }

    fn default_route(&self) -> Route {
        let topic = self.topic(DEFAULT_CATEGORY);
        if self.is_default_there { Route::Topic(topic) } else { Route::Ask(topic) }
    }

    fn topic(&self, category: &str) -> String {
        format!("{}.{category}", self.prefix)
    }

    /// Notes what the metadata said of the topic that [`Self::route`] asked for, for a category's sake.
    /// Gives true if the category falls back from now on.
    pub(super) fn answered(&mut self, category: &Category, topic: &str, answer: &TopicAnswer) -> bool {
        let is_default = topic == self.topic(DEFAULT_CATEGORY);
        match answer {
            TopicAnswer::Present if is_default => self.is_default_there = true,
            TopicAnswer::Present => drop(self.known.insert(category.clone(), Known::Own)),
            TopicAnswer::Absent(_) if !is_default => {
                return self.known.insert(category.clone(), Known::FallsBack) != Some(Known::FallsBack);
            }
            // `telemetry` always exists (D3): if it does not, somebody has to make it.
            TopicAnswer::Absent(_) | TopicAnswer::Unknown(_) => {}
        }
        false
    }

    /// Notes that a record was refused because of its topic. Gives true if the category falls back from
    /// now on.
    pub(super) fn refused(&mut self, category: &Category) -> bool {
        if self.known.get(category) == Some(&Known::Own) {
            self.known.insert(category.clone(), Known::FallsBack);
            return true;
        }
        self.is_default_there = false;
        false
    }

    /// Counts the categories that fall back.
    pub(super) fn fallbacks(&self) -> u64 {
        self.known.values().filter(|known| **known == Known::FallsBack).count() as u64
    }
}

/// Tells whether Kafka takes a text as a part of a topic's name. *Source*: Kafka's `Topic.java`.
fn is_topic_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(name: &str) -> Category {
        name.parse().unwrap()
    }

    fn to(topic: &str) -> Route {
        Route::Topic(topic.to_owned())
    }

    fn ask(topic: &str) -> Route {
        Route::Ask(topic.to_owned())
    }

    #[test]
    fn a_missing_topic_falls_back_to_telemetry_for_the_rest_of_the_epoch() {
        let mut routes = Routes::new("m");
        let (vibration, telemetry) = (category("vibration"), category("telemetry"));
        assert_eq!(routes.route(&vibration), ask("m.vibration"));
        assert!(!routes.answered(&vibration, "m.vibration", &TopicAnswer::Unknown("timed out".into())));
        assert_eq!(routes.route(&vibration), ask("m.vibration"), "nobody answered: asked again");
        assert!(routes.answered(&vibration, "m.vibration", &TopicAnswer::Absent("no topic".into())));
        assert_eq!(routes.route(&vibration), ask("m.telemetry"), "telemetry is asked for too");
        routes.answered(&vibration, "m.telemetry", &TopicAnswer::Present);
        assert_eq!(routes.route(&vibration), to("m.telemetry"));
        assert_eq!(routes.route(&telemetry), to("m.telemetry"));
        assert_eq!(routes.fallbacks(), 1);
    }

    #[test]
    fn a_topic_that_refuses_falls_back_and_telemetry_is_asked_for_again() {
        let mut routes = Routes::new("m");
        let (heat, telemetry) = (category("temperature"), category("telemetry"));
        routes.answered(&telemetry, "m.telemetry", &TopicAnswer::Present);
        routes.answered(&heat, "m.temperature", &TopicAnswer::Present);
        assert_eq!(routes.route(&heat), to("m.temperature"));
        assert!(routes.refused(&heat));
        assert_eq!(routes.route(&heat), to("m.telemetry"));
        assert!(!routes.refused(&heat), "it fell back before");
        assert_eq!(routes.route(&heat), ask("m.telemetry"));
    }

    #[test]
    fn a_category_that_is_no_topic_name_is_never_asked_for() {
        let mut routes = Routes::new("m");
        routes.answered(&category("telemetry"), "m.telemetry", &TopicAnswer::Present);
        assert_eq!(routes.route(&category("Wärme")), to("m.telemetry"));
    }
}
