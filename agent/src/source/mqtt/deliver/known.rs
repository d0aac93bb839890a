//! What a connection has seen: machines, the tags of their streams, and the layout that the rows of a
//! subscription have. Bounded, so that a publisher that makes up names cannot fill the memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_protocol::{
    BirthTag, Category, Cell, Layout, LayoutColumn, MachineName, NameError, Quality, Reporting, ValueType,
};
use thiserror::Error;

use crate::delivery::NewTags;
use crate::source::mqtt::payload::{Point, Reading};

/// Machines of one connection; a hall has dozens.
pub const MAX_MACHINES: usize = 1_000;
/// Tags of one connection, twice the largest gateway that Millrace is made for.
pub const MAX_TAGS: usize = 20_000;
/// What the tags and attributes of one stream may take in its birth, an item of at most 1 MiB (D2).
/// *Units*: bytes.
pub const MAX_BIRTH_BYTES: usize = 512 * 1024;
/// The rest of a birth's tag: type, reporting mode, hold, lengths. *Units*: bytes.
const BIRTH_TAG_BYTES: usize = 48;
/// How long the value of a tag from MQTT is held (F3). *Units*: microseconds.
const HOLD_US: i64 = 600 * 1_000_000;

/// Says why a message cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refused {
    #[error("\"{part}\" in the topic is no machine's name: {cause}")]
    Name { part: String, cause: NameError },
    #[error(
        "machine {0} is new and this connection has {MAX_MACHINES} already; name the real ones in `machines`"
    )]
    TooManyMachines(MachineName),
    #[error(
        "machine {machine} brings {new} new tags and this connection has {known} of at most {MAX_TAGS}; name the real ones in `tags`"
    )]
    TooManyTags { machine: MachineName, new: usize, known: usize },
    #[error(
        "the tags of machine {0}, category {1}, would need more than {MAX_BIRTH_BYTES} bytes to describe; name the real ones in `tags`"
    )]
    TooLongBirth(MachineName, Category),
}

/// A tag that a message wants its stream to know, or what it adds to one.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) unit: Option<Arc<str>>,
    pub(super) source: Arc<str>,
    /// The types of its values in this message.
    pub(super) types: Vec<ValueType>,
}

/// The wishes for one stream, each tag once, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    places: HashMap<Arc<str>, usize>,
    tags: Vec<(Arc<str>, Wish)>,
}

impl Wishes {
    /// Gives the wish for a tag, which `make` makes if there is none.
    pub(super) fn add(&mut self, name: &str, make: impl FnOnce() -> Wish) -> &mut Wish {
        let at = self.places.get(name).copied().unwrap_or(self.tags.len());
        if at == self.tags.len() {
            let name: Arc<str> = name.into();
            self.places.insert(Arc::clone(&name), at);
            self.tags.push((name, make()));
        }
        #[expect(clippy::expect_used, reason = "every place is one of the list's")]
        let (_, wish) = self.tags.get_mut(at).expect("every place is one of the list's");
        wish
    }
}

/// What is known of a tag's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Always(ValueType),
    /// More than one: a birth cannot name it, every row's layout does.
    Several,
}

impl Seen {
    /// Takes another value in. A tag passes through at most three states, so a sensor that alternates
    /// between numbers and texts makes two births and not one for each message.
    fn with(self, value_type: ValueType) -> Self {
        match self {
            Self::Nothing => Self::Always(value_type),
            Self::Always(known) if known == value_type => self,
            Self::Always(_) | Self::Several => Self::Several,
        }
    }

    const fn value_type(self) -> Option<ValueType> {
        match self {
            Self::Always(value_type) => Some(value_type),
            Self::Nothing | Self::Several => None,
        }
    }
}

#[derive(Debug, Default)]
struct Stream {
    places: HashMap<Arc<str>, usize>,
    tags: Vec<BirthTag>,
    seen: Vec<Seen>,
    birth_bytes: usize,
}

/// The columns that rows of one stream and subscription have had; a new one is added at the end.
#[derive(Debug)]
struct Shape {
    places: HashMap<Arc<str>, usize>,
    columns: Vec<LayoutColumn>,
    layout: Arc<Layout>,
}

#[derive(Debug)]
struct Machine {
    name: MachineName,
    attributes: BTreeMap<String, String>,
    streams: BTreeMap<Category, Stream>,
    shapes: HashMap<(Category, usize), Shape>,
}

/// Everything that a connection has seen.
#[derive(Debug)]
pub(super) struct Known {
    site: String,
    machines: HashMap<String, Machine>,
    tags: usize,
}

impl Known {
    pub(super) fn new(site: &str) -> Self {
        Self { site: site.to_owned(), machines: HashMap::new(), tags: 0 }
    }

    /// Tells whether the machine's stream has this tag.
    pub(super) fn has_tag(&self, machine: &str, category: &Category, tag: &str) -> bool {
        self.machines
            .get(machine)
            .and_then(|machine| machine.streams.get(category))
            .is_some_and(|stream| stream.places.contains_key(tag))
    }

    /// Tells whether a birth has announced this tag, and this type of it.
    pub(super) fn knows(
        &self,
        machine: &str,
        category: &Category,
        tag: &str,
        value_type: Option<ValueType>,
    ) -> bool {
        let stream = self.machines.get(machine).and_then(|machine| machine.streams.get(category));
        stream
            .and_then(|stream| stream.seen.get(*stream.places.get(tag)?))
            .is_some_and(|seen| value_type.is_none_or(|value_type| seen.with(value_type) == *seen))
    }

    /// Takes in what a message needs, and gives the machine's name and the births that this makes due.
    ///
    /// An attribute keeps the first value that a topic showed until the agent starts anew, so that two
    /// machines by one name do not make a birth for each message.
    ///
    /// *Errors*: [`Refused`]; then nothing was taken in.
    pub(super) fn admit(
        &mut self,
        machine: &str,
        attributes: &[(&str, &str)],
        wishes: BTreeMap<Category, Wishes>,
    ) -> Result<(MachineName, Vec<NewTags>), Refused> {
        let name = self.check(machine, attributes, &wishes)?;
        let entry = self.machines.entry(machine.to_owned()).or_insert_with(|| Machine {
            name: name.clone(),
            attributes: BTreeMap::new(),
            streams: BTreeMap::new(),
            shapes: HashMap::new(),
        });
        let mut new_attribute = false;
        for (key, value) in attributes {
            if !entry.attributes.contains_key(*key) {
                entry.attributes.insert((*key).to_owned(), (*value).to_owned());
                new_attribute = true;
            }
        }
        let mut changed = Vec::new();
        for (category, wishes) in wishes {
            let stream = entry.streams.entry(category.clone()).or_default();
            let before = stream.tags.len();
            if stream.take_in(wishes) {
                changed.push(category);
            }
            self.tags += stream.tags.len() - before;
        }
        let new_tags = entry
            .streams
            .iter()
            .filter(|(category, _)| new_attribute || changed.contains(category))
            .map(|(category, stream)| NewTags {
                machine: entry.name.clone(),
                category: category.clone(),
                tags: stream.tags.as_slice().into(),
                attributes: entry.attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            })
            .collect();
        Ok((name, new_tags))
    }

    fn check(
        &self,
        machine: &str,
        attributes: &[(&str, &str)],
        wishes: &BTreeMap<Category, Wishes>,
    ) -> Result<MachineName, Refused> {
        let known = self.machines.get(machine);
        let name = match known {
            Some(known) => known.name.clone(),
            None => MachineName::new(&format!("{}/{machine}", self.site))
                .map_err(|cause| Refused::Name { part: machine.chars().take(200).collect(), cause })?,
        };
        if known.is_none() && self.machines.len() >= MAX_MACHINES {
            return Err(Refused::TooManyMachines(name));
        }
        let attribute_bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
        let mut new = 0;
        for (category, wishes) in wishes {
            let stream = known.and_then(|known| known.streams.get(category));
            let mut bytes = attribute_bytes + stream.map_or(0, |stream| stream.birth_bytes);
            for (tag, wish) in &wishes.tags {
                if !stream.is_some_and(|stream| stream.places.contains_key(tag)) {
                    bytes += wish.birth_bytes(tag);
                    new += 1;
                }
            }
            if bytes > MAX_BIRTH_BYTES {
                return Err(Refused::TooLongBirth(name, category.clone()));
            }
        }
        if self.tags + new > MAX_TAGS {
            return Err(Refused::TooManyTags { machine: name, new, known: self.tags });
        }
        Ok(name)
    }

    /// Places the points of one instant, all of tags that were admitted, in the layout of their stream
    /// and subscription. A row that would leave more than half of it empty gets a layout of its own.
    pub(super) fn place(
        &mut self,
        machine: &str,
        category: &Category,
        subscription: usize,
        points: &[Point],
    ) -> (Arc<Layout>, Vec<Cell>) {
        let Some(entry) = self.machines.get_mut(machine) else { return place_apart(points) };
        let shape = entry.shapes.entry((category.clone(), subscription)).or_insert_with(|| Shape {
            places: HashMap::new(),
            columns: Vec::new(),
            layout: Arc::new(Layout::new(Vec::new())),
        });
        shape.place(points)
    }
}

impl Wish {
    fn birth_bytes(&self, name: &str) -> usize {
        let unit = self.unit.as_ref().map_or(0, |unit| unit.len());
        BIRTH_TAG_BYTES + name.len() + self.source.len() + unit
    }
}

impl Stream {
    /// Adds tags and types; tells whether a birth is due.
    fn take_in(&mut self, wishes: Wishes) -> bool {
        let mut changed = false;
        for (name, wish) in wishes.tags {
            let at = match self.places.get(&name) {
                Some(at) => *at,
                None => {
                    changed = true;
                    self.birth_bytes += wish.birth_bytes(&name);
                    self.places.insert(Arc::clone(&name), self.tags.len());
                    self.seen.push(Seen::Nothing);
                    self.tags.push(BirthTag {
                        name,
                        value_type: None,
                        unit: wish.unit,
                        source: wish.source,
                        reporting: Reporting::Spontaneous,
                        hold_us: HOLD_US,
                        counter_modulus: None,
                    });
                    self.tags.len() - 1
                }
            };
            if let (Some(seen), Some(birth)) = (self.seen.get_mut(at), self.tags.get_mut(at)) {
                *seen = wish.types.into_iter().fold(*seen, Seen::with);
                changed |= birth.value_type != seen.value_type();
                birth.value_type = seen.value_type();
            }
        }
        changed
    }
}

impl Shape {
    fn place(&mut self, points: &[Point]) -> (Arc<Layout>, Vec<Cell>) {
        let known = points.iter().filter(|point| self.places.contains_key(&point.name)).count();
        let width = self.columns.len() + points.len() - known;
        if points.len() * 2 < width {
            return place_apart(points);
        }
        let mut cells = vec![Cell::Absent; width];
        let mut changed = false;
        for point in points {
            let at = match self.places.get(&point.name) {
                Some(at) => *at,
                None => {
                    changed = true;
                    self.places.insert(Arc::clone(&point.name), self.columns.len());
                    self.columns.push(column(point));
                    self.columns.len() - 1
                }
            };
            if let (Some(column), Some(value_type)) = (self.columns.get_mut(at), value_type(point)) {
                changed |= column.value_type != value_type;
                column.value_type = value_type;
            }
            if let Some(cell) = cells.get_mut(at) {
                *cell = to_cell(&point.reading);
            }
        }
        if changed {
            self.layout = Arc::new(Layout::new(self.columns.clone()));
        }
        (Arc::clone(&self.layout), cells)
    }
}

fn place_apart(points: &[Point]) -> (Arc<Layout>, Vec<Cell>) {
    let layout = Layout::new(points.iter().map(column).collect());
    (Arc::new(layout), points.iter().map(|point| to_cell(&point.reading)).collect())
}

fn column(point: &Point) -> LayoutColumn {
    // A tag that has shown no value yet has only bad points, which need no type; most will be numbers.
    let value_type = value_type(point).unwrap_or(ValueType::F64);
    LayoutColumn { tag: Arc::clone(&point.name), value_type }
}

pub(super) const fn value_type(point: &Point) -> Option<ValueType> {
    match &point.reading {
        Reading::Value(value) => Some(value.value_type()),
        Reading::Null | Reading::NotOne => None,
    }
}

fn to_cell(reading: &Reading) -> Cell {
    match reading {
        Reading::Value(value) => Cell::Good(value.clone()),
        Reading::Null => Cell::Bad(Quality::BAD_VALUE),
        Reading::NotOne => Cell::Bad(Quality::WRONG_TYPE),
    }
}
