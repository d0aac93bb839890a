//! Kafka and the link to it: partitions are vectors, and every record on its way can be late, lost, doubled, refused.
//!
//! The producer that the agent's uplink is given keeps librdkafka's promises and no others: of one partition in
//! order while it lives, an answer for each record or none. What a producer had on its way when it ended may still
//! arrive, after what its successor sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use millrace_agent::uplink::{
    Answer, Answered, Envelope, Monitor, NotTaken, Outgoing, Outside, Produce, ProducerError, TopicAnswer,
    UplinkError,
};
use millrace_collector::intake::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dice::Dice;
use super::tally::Tally;
use super::time::Time;

/// First part of the topics' names.
pub const PREFIX: &str = "m";
/// More than this is not taken at once.
const QUEUE: usize = 40;

/// A topic's partition.
pub type Partition = (Arc<str>, i32);

/// A record on its way.
#[derive(Debug, Clone)]
struct Message {
    key: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    value: Vec<u8>,
}

/// A record whose producer waits for an answer.
#[derive(Debug)]
struct Sent {
    producer: u64,
    /// *Units*: microseconds since 1970-01-01 UTC.
    sent_us: i64,
    ticket: usize,
    answers: mpsc::Sender<Answered>,
    message: Message,
}

/// The cluster and what is on its way. Clones share it.
#[derive(Debug, Clone)]
pub struct Kafka(Arc<Mutex<Cluster>>);

#[derive(Debug)]
struct Cluster {
    time: Time,
    dice: Dice,
    partitions: i32,
    topics: BTreeSet<Arc<str>>,
    logs: BTreeMap<Partition, Vec<Incoming>>,
    queues: BTreeMap<Partition, VecDeque<Sent>>,
    /// Stored, and not answered yet.
    answers: Vec<Sent>,
    /// On its way from a producer that has ended.
    strays: BTreeMap<Partition, VecDeque<Message>>,
    is_up: bool,
    producers: u64,
    /// Sabotage: some records are acknowledged and not kept.
    loses: bool,
    broken: BTreeSet<u64>,
    /// When the newest of the records that arrived was sent.
    newest_us: i64,
    /// The numbered records that arrived: stream and first sequence.
    arrived: BTreeSet<Vec<u8>>,
    tally: Tally,
}

impl Kafka {
    /// Makes a cluster with these categories' topics.
    #[must_use]
    pub fn new(time: &Time, dice: Dice, partitions: i32, categories: &[&str], loses: bool) -> Self {
        let topics = categories.iter().map(|category| Arc::from(format!("{PREFIX}.{category}"))).collect();
        Self(Arc::new(Mutex::new(Cluster {
            time: time.clone(),
            dice,
            partitions,
            topics,
            logs: BTreeMap::new(),
            queues: BTreeMap::new(),
            answers: Vec::new(),
            strays: BTreeMap::new(),
            is_up: true,
            producers: 0,
            loses,
            broken: BTreeSet::new(),
            newest_us: 0,
            arrived: BTreeSet::new(),
            tally: Tally::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the link or mends it.
    pub fn set_up(&self, is_up: bool) {
        self.lock().is_up = is_up;
    }

    /// Gives what befell records.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// Tells whether records move.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().is_up
    }

    /// Makes or removes a topic, so that its records are refused.
    pub fn set_topic(&self, category: &str, is_there: bool) {
        let topic: Arc<str> = Arc::from(format!("{PREFIX}.{category}"));
        let topics = &mut self.lock().topics;
        if is_there {
            topics.insert(topic)
        } else {
            topics.remove(&topic)
        };
    }

    /// Lets one record arrive, or one answer, or a stray record of an ended producer.
    pub fn step(&self) {
        let cluster = &mut *self.lock();
        if !cluster.is_up {
            return;
        }
        let _moved = match cluster.dice.roll(8) {
            0 => cluster.stray(),
            1..4 => cluster.answer(),
            _ => cluster.arrive(),
        };
    }

    /// Does something bad to one record.
    pub fn trouble(&self) {
        self.lock().trouble();
    }

    /// Ends all producers without a word, as a kill of the agent does.
    pub fn cut(&self) {
        let cluster = &mut *self.lock();
        let all: Vec<u64> = (0..=cluster.producers).collect();
        all.into_iter().for_each(|producer| cluster.end(producer, false));
    }

    /// Lets everything arrive and be answered; the end of a seed.
    pub fn settle(&self) {
        let cluster = &mut *self.lock();
        while cluster.arrive() {}
        while cluster.answer() {}
        while cluster.stray() {}
    }

    /// Tells whether nothing is on its way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let cluster = self.lock();
        cluster.queues.values().all(VecDeque::is_empty)
            && cluster.answers.is_empty()
            && cluster.strays.values().all(VecDeque::is_empty)
    }

    /// Gives every partition that has records, and how many.
    #[must_use]
    pub fn ends(&self) -> Vec<(Partition, i64)> {
        let length = |log: &Vec<Incoming>| i64::try_from(log.len()).unwrap_or(i64::MAX);
        self.lock().logs.iter().map(|(partition, log)| (partition.clone(), length(log))).collect()
    }

    /// Reads records from an offset on.
    #[must_use]
    pub fn read(&self, partition: &Partition, offset: i64, most: usize) -> Vec<Incoming> {
        let from = usize::try_from(offset).unwrap_or(0);
        let cluster = self.lock();
        let log = cluster.logs.get(partition).map(Vec::as_slice).unwrap_or_default();
        log.iter().skip(from).take(most).cloned().collect()
    }
}

impl Cluster {
    fn append(&mut self, (topic, partition): &Partition, message: Message) {
        let log = self.logs.entry((Arc::clone(topic), *partition)).or_default();
        let before = log.last().map_or(i64::MIN, |record| record.append_us);
        let name = message.name();
        if message.is_numbered() && !self.arrived.insert(name) {
            self.tally.once("record doubled");
        }
        log.push(Incoming {
            topic: Arc::clone(topic),
            partition: *partition,
            offset: i64::try_from(log.len()).unwrap_or(i64::MAX),
            append_us: self.time.now_us().max(before),
            key: Some(message.key),
            headers: message.headers,
            value: message.value,
        });
    }

    /// Takes the first record of some queue.
    fn first(&mut self) -> Option<(Partition, Sent)> {
        let waiting: Vec<Partition> =
            self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(at, _)| at.clone()).collect();
        let partition = waiting.get(self.dice.place(waiting.len()))?.clone();
        let sent = self.queues.get_mut(&partition)?.pop_front()?;
        Some((partition, sent))
    }

    fn arrive(&mut self) -> bool {
        let Some((partition, sent)) = self.first() else { return false };
        if sent.sent_us < self.newest_us {
            self.tally.once("records reordered");
        }
        self.newest_us = self.newest_us.max(sent.sent_us);
        if !self.topics.contains(&partition.0) {
            sent.answer(Answer::TopicRefused("the topic is gone".to_owned()));
            return true;
        }
        if !(self.loses && self.dice.one_in(20)) {
            self.append(&partition, sent.message.clone());
        }
        self.answers.push(sent);
        true
    }

    fn answer(&mut self) -> bool {
        let at = self.dice.place(self.answers.len());
        if self.answers.is_empty() {
            return false;
        }
        self.answers.remove(at).answer(Answer::Delivered);
        true
    }

    fn stray(&mut self) -> bool {
        let waiting: Vec<Partition> =
            self.strays.iter().filter(|(_, strays)| !strays.is_empty()).map(|(at, _)| at.clone()).collect();
        let Some(partition) = waiting.get(self.dice.place(waiting.len())) else { return false };
        let Some(message) = self.strays.get_mut(partition).and_then(VecDeque::pop_front) else {
            return false;
        };
        if self.topics.contains(&partition.0) {
            self.tally.once("record late");
            self.append(partition, message);
        }
        true
    }

    fn trouble(&mut self) {
        let unknown = || Answer::Unknown("nobody knows".to_owned());
        match self.dice.roll(10) {
            // It arrived, and its answer did not: sent again.
            0..3 if !self.answers.is_empty() => {
                let at = self.dice.place(self.answers.len());
                self.answers.remove(at).answer(unknown());
            }
            // Kafka refuses what is too large; births and losses alone never are.
            6 => {
                let Some((partition, sent)) = self.first() else { return };
                if sent.message.is_numbered() {
                    self.tally.once("record refused");
                    sent.answer(Answer::RecordRefused("too large for me".to_owned()));
                } else if let Some(queue) = self.queues.get_mut(&partition) {
                    queue.push_front(sent);
                }
            }
            // A record is given up, and with it, as librdkafka is idempotent, its producer: nothing of the partition
            // can arrive after a gap. The answer makes the uplink ask.
            _ => {
                let Some((partition, sent)) = self.first() else { return };
                self.broken.insert(sent.producer);
                let behind = self.queues.get_mut(&partition).map(std::mem::take).unwrap_or_default();
                let messages =
                    std::iter::once(&sent).chain(&behind).map(|sent| sent.message.clone()).collect();
                self.go_astray(&partition, messages);
                sent.answer(unknown());
            }
        }
    }

    /// Of what is on its way the first few arrive late, in order, and the others never.
    fn go_astray(&mut self, partition: &Partition, messages: Vec<Message>) {
        let kept = self.dice.place(messages.len() + 1);
        self.tally.add("record lost", (messages.len() - kept) as u64);
        self.strays.entry(partition.clone()).or_default().extend(messages.into_iter().take(kept));
    }

    /// Ends a producer; with a last chance to answer, or without a word.
    fn end(&mut self, producer: u64, answers: bool) {
        let partitions: Vec<Partition> = self.queues.keys().cloned().collect();
        for partition in partitions {
            let Some(queue) = self.queues.get_mut(&partition) else { continue };
            let (ended, kept): (VecDeque<Sent>, VecDeque<Sent>) =
                queue.drain(..).partition(|sent| sent.producer == producer);
            *queue = kept;
            self.go_astray(&partition, ended.into_iter().map(|sent| sent.message).collect());
        }
        let (ended, kept): (Vec<Sent>, Vec<Sent>) =
            self.answers.drain(..).partition(|sent| sent.producer == producer);
        self.answers = kept;
        for sent in ended {
            if answers && self.dice.one_in(2) {
                sent.answer(Answer::Delivered);
            }
        }
    }
}

impl Message {
    /// Tells whether it has rows; births and losses alone have none.
    fn is_numbered(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == "seq")
    }

    /// Gives its stream and first sequence, as bytes.
    fn name(&self) -> Vec<u8> {
        let headers = self.headers.iter().filter(|(name, _)| name != "rows");
        let parts = headers.map(|(_, value)| value.as_slice()).chain([self.key.as_slice()]);
        parts.collect::<Vec<_>>().join(&0)
    }
}

impl Sent {
    fn answer(self, answer: Answer) {
        // Who no longer listens has given everything back.
        drop(self.answers.try_send((self.ticket, answer)));
    }
}

/// A producer of the simulated cluster.
#[derive(Debug, Clone)]
pub struct Producer {
    number: u64,
    kafka: Kafka,
    answers: mpsc::Sender<Answered>,
}

impl Produce for Producer {
    fn send(&self, to: &Envelope<'_>, record: &Outgoing) -> Result<(), NotTaken> {
        let cluster = &mut *self.kafka.lock();
        let key = record.stream.machine.as_str().as_bytes();
        let spread = key.iter().fold(7_i32, |sum, byte| sum.wrapping_mul(31).wrapping_add(i32::from(*byte)));
        let partition = (Arc::from(to.topic), spread.rem_euclid(cluster.partitions));
        if cluster.broken.contains(&self.number) {
            return Err(NotTaken::Answered(Answer::Unknown("the producer has ended".to_owned())));
        }
        let queue = cluster.queues.entry(partition).or_default();
        if queue.len() >= QUEUE {
            return Err(NotTaken::Full);
        }
        queue.push_back(Sent {
            producer: self.number,
            sent_us: cluster.time.now_us(),
            ticket: to.ticket,
            answers: self.answers.clone(),
            message: Message { key: key.to_vec(), headers: headers(record), value: record.value.clone() },
        });
        Ok(())
    }

    fn ask(&self, topic: &str) -> TopicAnswer {
        let cluster = self.kafka.lock();
        match (cluster.is_up, cluster.topics.contains(topic)) {
            (false, _) => TopicAnswer::Unknown("no broker answers".to_owned()),
            (true, true) => TopicAnswer::Present,
            (true, false) => TopicAnswer::Absent("no such topic".to_owned()),
        }
    }

    fn why_not_on(&self) -> Option<String> {
        self.kafka.lock().broken.contains(&self.number).then(|| "out of order".to_owned())
    }

    fn end(self) {
        self.kafka.lock().end(self.number, true);
    }
}

/// The headers of D2.
fn headers(record: &Outgoing) -> Vec<(String, Vec<u8>)> {
    let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
    let stream = &record.stream;
    let mut headers = vec![
        header("agent", stream.agent.to_string()),
        header("epoch", stream.epoch.to_string()),
        header("category", stream.category.to_string()),
        header("rows", record.rows.to_string()),
    ];
    headers.extend(record.first_seq.map(|first| header("seq", first.to_string())));
    headers
}

/// The world around the simulated agent's uplink.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub kafka: Kafka,
    /// The time.
    pub time: Time,
    /// How long blocking work takes, in polls.
    pub dice: Mutex<Dice>,
}

impl World {
    fn pauses(&self) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).roll(2)
    }
}

impl Outside for World {
    type Producer = Producer;

    fn start(&self, answers: mpsc::Sender<Answered>, _monitor: Monitor) -> Result<Producer, ProducerError> {
        let cluster = &mut *self.kafka.lock();
        cluster.producers += 1;
        Ok(Producer { number: cluster.producers, kafka: self.kafka.clone(), answers })
    }

    fn now(&self) -> Instant {
        self.time.instant()
    }

    async fn sleep_until(&self, at: Instant) {
        std::future::poll_fn(|_| if self.time.instant() >= at { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    /// Does it at once, with places before and after it at which the agent can be killed.
    async fn blocking<T: Send + 'static>(
        &self,
        _step: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, UplinkError> {
        Pause(self.pauses()).await;
        let done = work();
        Pause(self.pauses()).await;
        Ok(done)
    }
}

/// Is pending for so many polls.
struct Pause(u64);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        Poll::Pending
    }
}
