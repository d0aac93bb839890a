//! The buffer against a model: whatever happens in whatever order, every row that was stored is handed
//! out until Kafka has it, or declared lost; sequences have no holes; the books balance.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MACHINES: usize = 3;

#[derive(Debug, Clone)]
enum Event {
    Store { rows: Vec<(usize, u64, usize)> },
    Take { bytes: usize },
    Acknowledge { every: usize },
    GiveBack { every: usize },
    Refuse,
    Roll,
    Tidy,
    DropOldest,
    Damage { which: usize },
    Restart,
    Kill,
    EndAt { step: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let rows = prop::collection::vec((0..MACHINES, 1u64..5, 0usize..9_000), 1..4);
    prop_oneof![
        8 => rows.prop_map(|rows| Event::Store { rows }),
        5 => (1usize..20_000).prop_map(|bytes| Event::Take { bytes }),
        5 => (1usize..4).prop_map(|every| Event::Acknowledge { every }),
        2 => (1usize..3).prop_map(|every| Event::GiveBack { every }),
        1 => Just(Event::Refuse),
        3 => Just(Event::Roll),
        3 => Just(Event::Tidy),
        1 => Just(Event::DropOldest),
        1 => (0usize..4).prop_map(|which| Event::Damage { which }),
        1 => Just(Event::Restart),
        1 => Just(Event::Kill),
        1 => (0usize..12).prop_map(|step| Event::EndAt { step }),
    ]
}

#[derive(Default)]
struct Model {
    /// Last sequence that is on disk, by epoch and machine.
    stored: BTreeMap<(u64, usize), u64>,
    /// Rows that Kafka has.
    acknowledged: BTreeMap<StreamId, BTreeSet<u64>>,
    lost: BTreeMap<StreamId, BTreeSet<u64>>,
    /// Why rows may be lost, by what happened.
    excuses: Vec<LossReason>,
    hands: Vec<Stored>,
    /// First sequences of the items that were handed out since the start.
    handed: BTreeMap<StreamId, BTreeSet<u64>>,
}

struct World {
    rig: Rig,
    running: Option<(Buffer, BufferReader)>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new();
        let running = Some(rig.start());
        Self { rig, running, model: Model::default() }
    }

    fn run(&mut self, event: Event) {
        let (buffer, reader) = self.running.as_mut().unwrap();
        match event {
            Event::Store { rows } => assert!(self.store(&rows)),
            Event::Take { bytes } => {
                let taken = reader.take(bytes);
                self.model.take(&taken);
                self.model.hands.extend(taken);
            }
            Event::Acknowledge { every } => {
                let (sent, kept) = split(&mut self.model.hands, every);
                reader.acknowledge(&positions(&sent));
                self.model.hands = kept;
                self.model.acknowledge(&sent);
            }
            Event::GiveBack { every } => {
                let (back, kept) = split(&mut self.model.hands, every);
                reader.give_back(&positions(&back));
                self.model.hands = kept;
            }
            Event::Refuse => {
                if let Some(at) = self.model.hands.iter().position(|s| s.seq.is_some()) {
                    let refused = self.model.hands.remove(at);
                    self.model.excuses.push(LossReason::Refused);
                    reader.refuse(refused.position, LossReason::Refused);
                }
            }
            Event::Roll => buffer.begin_segment().unwrap(),
            Event::Tidy => buffer.tidy().unwrap(),
            Event::DropOldest => {
                if buffer.drop_oldest() {
                    self.model.excuses.push(LossReason::DroppedOldest);
                }
            }
            Event::Damage { which } => self.damage(which),
            Event::Restart => {
                let (buffer, reader) = self.running.take().unwrap();
                drop(reader);
                buffer.close();
                self.start();
            }
            Event::Kill => {
                let (buffer, reader) = self.running.take().unwrap();
                self.rig.kill(buffer, reader);
                self.start();
            }
            Event::EndAt { step } => self.end_at(step),
        }
    }

    fn store(&mut self, rows: &[(usize, u64, usize)]) -> bool {
        let (buffer, _) = self.running.as_mut().unwrap();
        let epoch = self.rig.starts;
        let mut stored = self.model.stored.clone();
        let mut new = Vec::new();
        for &(n, rows, size) in rows {
            let last = stored.entry((epoch, n)).or_default();
            new.push(new_rows(buffer, n, *last + 1, rows, size));
            *last += rows;
        }
        let is_stored = buffer.flush(&group(new)) == Flushed::Stored;
        if is_stored {
            self.model.stored = stored;
        }
        is_stored
    }

    /// Ends the world while something happens, by a kill or by a power cut.
    fn end_at(&mut self, step: usize) {
        self.rig.disk.inner.lock().unwrap().countdown = Some(step);
        for n in 0..4 {
            let is_stored = self.store(&[(n % MACHINES, 2, 3_000), (0, 1, 10)]);
            let (buffer, _) = self.running.as_mut().unwrap();
            if !is_stored || buffer.begin_segment().is_err() || buffer.tidy().is_err() {
                break;
            }
        }
        let (buffer, reader) = self.running.take().unwrap();
        let has_ended = self.rig.disk.inner.lock().unwrap().image.is_some();
        if has_ended {
            drop((buffer, reader));
            self.rig.restore_image();
        } else {
            self.rig.kill(buffer, reader);
        }
        self.start();
    }

    /// Damages a closed segment while nobody runs.
    fn damage(&mut self, which: usize) {
        let (buffer, reader) = self.running.take().unwrap();
        drop(reader);
        buffer.close();
        let mut segments: Vec<PathBuf> = std::fs::read_dir(self.rig.folder())
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with('0'))
            .collect();
        segments.sort();
        segments.pop();
        if let Some(folder) = segments.get(which) {
            std::fs::write(folder.join("db"), vec![0x11; 100_000]).unwrap();
            self.model.excuses.push(LossReason::SetAsideDamaged);
        }
        self.start();
    }

    fn start(&mut self) {
        self.model.hands.clear();
        self.model.handed.clear();
        self.running = Some(self.rig.start());
        // A flush that was not confirmed may be there all the same.
        let (_, reader) = self.running.as_ref().unwrap();
        for (&(epoch, n), last) in &mut self.model.stored {
            let numbered = reader.numbered(&stream_id(epoch, n));
            if numbered > 0 {
                assert!(numbered >= *last, "{n}: {numbered} of {last}");
                *last = numbered;
            }
        }
    }

    fn check_books(&self) {
        let (_, reader) = self.running.as_ref().unwrap();
        let books = reader.books();
        let lines = books.transport.iter().all(|l| l.rows.is_balanced() && l.points.is_balanced());
        assert!(lines, "{books:?}");
    }

    /// Sends everything and checks that no row is missing in silence.
    fn finish(mut self) {
        let (mut buffer, reader) = self.running.take().unwrap();
        reader.give_back(&positions(&self.model.hands));
        for _ in 0..200 {
            let taken = reader.take(100_000);
            if taken.is_empty() {
                buffer.flush(&Group::default());
                if reader.streams().iter().all(|s| s.waiting_rows == 0 && s.waiting_notices == 0) {
                    break;
                }
            }
            reader.acknowledge(&positions(&taken));
            self.model.acknowledge(&taken);
        }
        buffer.flush(&Group::default());
        self.running = Some((buffer, reader));
        self.check_books();
        let (_, reader) = self.running.as_ref().unwrap();
        for stream in reader.streams() {
            assert_eq!(stream.waiting_rows, 0, "{}", stream.stream);
        }
        for (&(epoch, n), &last) in &self.model.stored {
            let id = stream_id(epoch, n);
            let none = BTreeSet::new();
            let sent = self.model.acknowledged.get(&id).unwrap_or(&none);
            let lost = self.model.lost.get(&id).unwrap_or(&none);
            let missing: Vec<u64> = (1..=last).filter(|s| !sent.contains(s) && !lost.contains(s)).collect();
            assert!(missing.is_empty(), "{id}: {missing:?} of {last} are gone in silence");
        }
    }
}

impl Model {
    /// What was never handed out comes in the order of its stream.
    fn take(&mut self, taken: &[Stored]) {
        for stored in taken {
            let Some((from, _)) = stored.seq else { continue };
            let handed = self.handed.entry(stored.stream.clone()).or_default();
            let is_next = handed.last().is_none_or(|last| *last < from);
            assert!(handed.contains(&from) || is_next, "{} {from} comes after {handed:?}", stored.stream);
            handed.insert(from);
        }
    }

    fn acknowledge(&mut self, sent: &[Stored]) {
        for (stream, losses) in losses(sent) {
            let lost = self.lost.entry(stream).or_default();
            for loss in losses {
                assert!(loss.ranges.iter().all(|r| r.to.is_some()), "only active segments have open ends");
                assert!(self.excuses.contains(&loss.reason), "{loss:?} without a cause");
                lost.extend(loss.closed_ranges().ranges().flatten());
            }
        }
        for stored in sent {
            let Some((from, to)) = stored.seq else { continue };
            let n = stored.stream.machine.as_str().trim_start_matches("hall/m").parse().unwrap();
            assert!(stored.item == item(n, from, to, stored.item.len()), "{} {from}", stored.stream);
            self.acknowledged.entry(stored.stream.clone()).or_default().extend(from..=to);
        }
    }
}

fn split(hands: &mut Vec<Stored>, every: usize) -> (Vec<Stored>, Vec<Stored>) {
    let (mut some, mut rest) = (Vec::new(), Vec::new());
    for (at, stored) in hands.drain(..).enumerate() {
        if at % every == 0 { some.push(stored) } else { rest.push(stored) }
    }
    (some, rest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn no_row_is_lost_in_silence_and_the_books_balance(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        for event in events {
            world.run(event);
            world.check_books();
        }
        world.finish();
    }
}
