//! Two processes that send as one agent (D7): a cloned card, a restored backup, a second start.
//!
//! A process that starts anew sends with a new epoch and the old one is never heard again. Within one topic's partition
//! Kafka keeps the order in which records came, so a sender that comes back after another means that both live. Across
//! partitions nothing follows: one may be read long after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millrace_protocol::{AgentId, Epoch, StreamId};

use super::Memory;
use crate::intake::Incoming;
use crate::lake::write::AuditRow;

/// So many senders of an agent are remembered in a partition; two that alternate are never further apart.
const REMEMBERED: usize = 16;

/// Who sent, by topic, partition and agent; the last one stands last.
#[derive(Debug, Default)]
pub(super) struct Senders {
    known: HashMap<(Arc<str>, i32, AgentId), Vec<Epoch>>,
    /// Agents of which it was said already.
    said: BTreeSet<AgentId>,
    /// What was found since the last flush.
    found: Duplicates,
}

/// Agents that send from two processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Records after which the sender had changed back.
    pub records: u64,
    /// What to tell of each agent, the first time.
    pub texts: BTreeMap<AgentId, String>,
}

impl Senders {
    /// Takes note of a sender; gives the one that it came back after.
    fn came_back(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        agent: &AgentId,
        sender: Epoch,
    ) -> Option<Epoch> {
        let senders = self.known.entry((Arc::clone(topic), partition, agent.clone())).or_default();
        let last = senders.last().copied();
        if last == Some(sender) {
            return None;
        }
        let before = senders.iter().position(|known| *known == sender);
        match before {
            Some(at) => {
                senders.remove(at);
            }
            None if senders.len() >= REMEMBERED => {
                senders.remove(0);
            }
            None => {}
        }
        senders.push(sender);
        before.and(last)
    }

    pub(super) fn take(&mut self) -> Duplicates {
        std::mem::take(&mut self.found)
    }
}

impl Memory {
    /// Looks at who sent a record; the first time that an agent turns out to be two, a person hears of it.
    pub(super) fn sent_by(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, sender: Epoch) {
        let agent = &stream.agent;
        let Some(other) = self.senders.came_back(&incoming.topic, incoming.partition, agent, sender) else {
            return;
        };
        self.senders.found.records += 1;
        if !self.senders.said.insert(agent.clone()) {
            return;
        }
        let text = format!(
            "duplicate_agent: two processes send as agent {agent}, with epochs {other} and {sender}: a copied data \
             directory or a second gateway with the same id. Nothing is stored twice and nothing is lost; give one of \
             them another id and an empty data directory"
        );
        tracing::error!("{text}");
        let row =
            AuditRow { stream_id: 0, kind: "duplicate_agent", at: incoming.append_us, reason: text.clone() };
        self.trouble(&format!("agent {agent}"), incoming.partition, &text);
        self.senders.found.texts.insert(agent.clone(), text);
        self.touch(incoming.partition, stream).audits.push((Arc::clone(stream), row));
    }
}
