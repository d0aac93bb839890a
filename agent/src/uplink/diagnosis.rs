//! Why Kafka refuses a secured link, in words that say what to look at: librdkafka's do not tell a wrong authority from a
//! wrong name, nor what it dislikes about our certificate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_link::{Tls, handshake};

use super::health::Monitor;

/// How long a broker may take for a connection, and for a handshake.
const PATIENCE: Duration = Duration::from_secs(3);
/// librdkafka says the same at every attempt; looked into is it not more often.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Looks into refused connections. Clones share what was looked into.
#[derive(Debug, Clone)]
pub(super) struct Diagnosis {
    brokers: Arc<[String]>,
    tls: Arc<Tls>,
    monitor: Monitor,
    /// The kind of error that was last looked into, and when.
    last: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Diagnosis {
    /// Begins with nothing looked into; `None` for plain text, of which librdkafka says all there is.
    pub(super) fn new(brokers: &[String], tls: Option<&Tls>, monitor: &Monitor) -> Option<Self> {
        let tls = Arc::new(tls?.clone());
        Some(Self { brokers: brokers.into(), tls, monitor: monitor.clone(), last: Arc::default() })
    }

    /// Makes a handshake of our own with each broker, on a thread of its own, if this kind of error is new.
    pub(super) fn look_into(&self, kind: &str) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|(known, at)| known == kind && at.elapsed() < AGAIN_AFTER) {
                return;
            }
            *last = Some((kind.to_owned(), Instant::now()));
        }
        let this = self.clone();
        let asked = std::thread::Builder::new().name("kafka-diagnosis".to_owned()).spawn(move || this.ask());
        if let Err(error) = asked {
            tracing::debug!(%error, "no thread for a diagnosis");
        }
    }

    /// Says what the first broker that refuses refuses for; if none does, librdkafka's words stand.
    fn ask(&self) {
        let refusal = self.brokers.iter().find_map(|broker| handshake(broker, &self.tls, PATIENCE).err());
        self.monitor.explain(refusal.map(|refusal| refusal.to_string()));
    }
}
