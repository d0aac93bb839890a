//! Why a secured link is refused, in words that say what to look at: librdkafka's do not tell a wrong authority from a
//! wrong name, nor what a server dislikes about our certificate.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Refusal, Security, Tls, handshake};

/// How long a server may take for a connection, and for a handshake.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Client libraries say the same at every attempt; looked into is it not more often.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Makes a handshake of our own with each server, in turn.
///
/// *Errors*: why the first one that refuses does.
pub fn ask(servers: &[String], tls: &Tls) -> Result<(), Refusal> {
    servers.iter().try_for_each(|server| handshake(server, tls, PATIENCE))
}

/// Who is told what was found: why a link is refused, or that it is not.
type Report = dyn Fn(Option<String>) + Send + Sync;

/// Looks into refused connections. Clones share what was looked into.
#[derive(Clone)]
pub struct Diagnosis {
    servers: Arc<[String]>,
    tls: Arc<Tls>,
    report: Arc<Report>,
    /// The kind of error that was last looked into, and when.
    last: Arc<Mutex<Option<(String, Instant)>>>,
}

impl fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diagnosis").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Diagnosis {
    /// Begins with nothing looked into; `None` for plain text, of which the client library says all there is.
    #[must_use]
    pub fn new(
        servers: &[String],
        security: &Security,
        report: impl Fn(Option<String>) + Send + Sync + 'static,
    ) -> Option<Self> {
        let tls = Arc::new(security.tls.clone()?);
        Some(Self { servers: servers.into(), tls, report: Arc::new(report), last: Arc::default() })
    }

    /// Looks, on a thread of its own, if this kind of error is new.
    pub fn look_into(&self, kind: &str) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|(known, at)| known == kind && at.elapsed() < AGAIN_AFTER) {
                return;
            }
            *last = Some((kind.to_owned(), Instant::now()));
        }
        let this = self.clone();
        let look = move || {
            let refusal = ask(&this.servers, &this.tls).err();
            (this.report)(refusal.map(|refusal| refusal.to_string()));
        };
        // Without a thread the client library's own words have to do.
        drop(std::thread::Builder::new().name("link-diagnosis".to_owned()).spawn(look));
    }
}
