//! Streams of this epoch and their births: at start, when tags show for the first time, and when rows come
//! of a stream that nothing announced (D7).

use std::collections::{BTreeMap, HashMap, HashSet};

use millrace_protocol::{Birth, BirthTag, Category, Item, MachineName};

use super::pack::Waiting;
use super::{Batch, OpenStream};
use crate::delivery::NewTags;

impl Batch {
    /// Stores a birth, after sequence 0, for every stream of configuration and manifest.
    pub(super) fn begin(&mut self) {
        let mut known: BTreeMap<(MachineName, Category), Birth> = BTreeMap::new();
        for (machine, category, birth) in self.buffer.births() {
            known.insert((machine, category), birth);
        }
        for new in std::mem::take(&mut self.options.streams) {
            let attributes = new.attributes.iter().cloned().collect();
            let birth = Birth { tags: new.tags.to_vec(), attributes, ..Birth::default() };
            known.insert((new.machine.clone(), new.category.clone()), birth);
        }
        let mut births = Vec::new();
        for ((machine, category), known) in known {
            let (stream, birth) = self.open(&machine, &category, known.tags, known.attributes);
            match Item::Birth(birth).encode() {
                Ok(item) => births.push((stream.number, item)),
                Err(error) => tracing::error!(%error, %machine, "a birth cannot be written"),
            }
            self.streams.insert((machine, category), stream);
        }
        self.buffer.begin(births);
    }

    /// Begins a stream of this epoch and makes its first birth.
    fn open(
        &mut self,
        machine: &MachineName,
        category: &Category,
        tags: Vec<BirthTag>,
        attributes: BTreeMap<String, String>,
    ) -> (OpenStream, Birth) {
        let birth = Birth {
            after: 0,
            tags: tags.clone(),
            attributes: attributes.clone(),
            previous: self.buffer.previous(machine, category),
            last_flushed_us: self.last_flushed_us,
            started_us: self.started_us,
        };
        let number = self.buffer.stream(machine, category);
        (
            OpenStream {
                number,
                next_seq: 1,
                tags,
                attributes,
                waiting: Waiting::default(),
                is_pending: false,
            },
            birth,
        )
    }

    /// Makes a birth of tags that a source saw for the first time: these, and by their names those that
    /// another source or an earlier start announced.
    pub(super) fn new_tags(&mut self, new: &NewTags) {
        let key = (new.machine.clone(), new.category.clone());
        let birth = if let Some(stream) = self.streams.get_mut(&key) {
            let tags = merged(&stream.tags, &new.tags);
            let mut attributes = stream.attributes.clone();
            attributes.extend(new.attributes.iter().cloned());
            if stream.tags == tags && stream.attributes == attributes {
                return;
            }
            stream.tags.clone_from(&tags);
            stream.attributes.clone_from(&attributes);
            Birth {
                after: 0,
                tags,
                attributes,
                previous: self.buffer.previous(&key.0, &key.1),
                last_flushed_us: self.last_flushed_us,
                started_us: self.started_us,
            }
        } else {
            let attributes = new.attributes.iter().cloned().collect();
            let (stream, birth) = self.open(&key.0, &key.1, new.tags.to_vec(), attributes);
            self.streams.insert(key.clone(), stream);
            birth
        };
        self.pending.bytes += 64 * birth.tags.len();
        self.waiting(&key).birth(birth);
    }

    /// Gives what waits in a stream; one that nothing announced gets a birth without tags.
    pub(super) fn waiting(&mut self, key: &(MachineName, Category)) -> &mut Waiting {
        if !self.streams.contains_key(key) {
            let (mut stream, birth) = self.open(&key.0, &key.1, Vec::new(), BTreeMap::new());
            stream.waiting.birth(birth);
            self.streams.insert(key.clone(), stream);
        }
        #[expect(clippy::expect_used, reason = "inserted above")]
        let stream = self.streams.get_mut(key).expect("inserted above");
        if !stream.is_pending {
            stream.is_pending = true;
            self.pending.streams.push(key.clone());
        }
        &mut stream.waiting
    }
}

/// Gives the tags of both, each name once, the newer ones in the place of the older.
fn merged(old: &[BirthTag], new: &[BirthTag]) -> Vec<BirthTag> {
    let replaced: HashMap<&str, &BirthTag> = new.iter().map(|tag| (&*tag.name, tag)).collect();
    let known: HashSet<&str> = old.iter().map(|tag| &*tag.name).collect();
    let kept = old.iter().map(|tag| replaced.get(&*tag.name).copied().unwrap_or(tag));
    kept.chain(new.iter().filter(|tag| !known.contains(&*tag.name))).cloned().collect()
}
