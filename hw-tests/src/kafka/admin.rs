//! Makes topics on a real Kafka, as its administrator.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use thiserror::Error;

/// How long the cluster may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says why topics could not be made.
#[derive(Debug, Error)]
pub enum AdminError {
    /// librdkafka does not take the configuration.
    #[error("no administrator of {brokers}")]
    Client {
        /// Whom it was to speak to.
        brokers: String,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The cluster did not answer.
    #[error("the topics were not made")]
    Ask(#[source] KafkaError),
    /// The cluster refused.
    #[error("topic {topic} was not made: {code}")]
    Refused {
        /// Its name.
        topic: String,
        /// What the cluster says.
        code: RDKafkaErrorCode,
    },
}

/// Who may make topics: files in PEM.
#[derive(Debug, Clone, Copy)]
pub struct Administrator<'a> {
    /// `host:port`, with commas between them.
    pub brokers: &'a str,
    /// The authority.
    pub ca_file: &'a str,
    /// Its certificate.
    pub cert_file: &'a str,
    /// Its key.
    pub key_file: &'a str,
}

/// Makes topics whose records get the cluster's time, on as many brokers as `copies`.
///
/// *Errors*: [`AdminError`]; a topic that is there already is an error.
pub async fn make_topics(
    administrator: Administrator<'_>,
    topics: &[&str],
    partitions: i32,
    copies: i32,
) -> Result<(), AdminError> {
    let brokers = administrator.brokers;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("security.protocol", "ssl")
        .set("ssl.ca.location", administrator.ca_file)
        .set("ssl.certificate.location", administrator.cert_file)
        .set("ssl.key.location", administrator.key_file)
        .create()
        .map_err(|source| AdminError::Client { brokers: brokers.to_owned(), source })?;
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| {
            NewTopic::new(topic, partitions, TopicReplication::Fixed(copies))
                .set("message.timestamp.type", "LogAppendTime")
                .set("min.insync.replicas", if copies > 2 { "2" } else { "1" })
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    for made in admin.create_topics(&new, &options).await.map_err(AdminError::Ask)? {
        made.map_err(|(topic, code)| AdminError::Refused { topic, code })?;
    }
    Ok(())
}
