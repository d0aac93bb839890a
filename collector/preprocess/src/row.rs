//! Row expressions along time: step functions over a range, made of the points of one machine (F3).

use std::cell::RefCell;
use std::rc::Rc;

use crate::graph::{Leaf, RowExpr, Tree, View};
use crate::history::History;
use crate::tree::{Scene, evaluate};
use crate::value::Val;

/// How long a debounced signal keeps its value while what it stands on is unsteady. *Units*: microseconds.
pub(crate) const DEBOUNCE_MEMORY_US: i64 = 600_000_000;

/// From a time on, a value.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) time_us: i64,
    pub(crate) value: Val,
    /// Whether a good point of one of the tags stands here.
    pub(crate) sample: bool,
}

/// A step function over a range.
///
/// *Shape*: the first step stands at the begin of the range, the others after it in order.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    /// The value just before the range.
    pub(crate) before: Val,
    /// When the newest good point before the range was, if its value still holds.
    pub(crate) since_us: Option<i64>,
    pub(crate) list: Vec<Step>,
}

/// A range of a view's machine, in which row expressions are evaluated; each once.
pub(crate) struct Rows<'a> {
    view: &'a View,
    history: &'a History,
    /// For each tag of the view its place in the history.
    places: &'a [usize],
    scene: Scene<'a>,
    from_us: i64,
    to_us: i64,
    rows: RefCell<Vec<Option<Rc<Steps>>>>,
    tags: RefCell<Vec<Option<Rc<Steps>>>>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        view: &'a View,
        history: &'a History,
        places: &'a [usize],
        scene: Scene<'a>,
        range: (i64, i64),
    ) -> Self {
        let rows = RefCell::new(vec![None; view.rows.len()]);
        let tags = RefCell::new(vec![None; view.tags.len()]);
        Self { view, history, places, scene, from_us: range.0, to_us: range.1, rows, tags }
    }

    /// Gives a row expression's steps.
    pub(crate) fn row(&self, row: usize) -> Rc<Steps> {
        if let Some(Some(known)) = self.rows.borrow().get(row) {
            return Rc::clone(known);
        }
        let steps = self.expression(row);
        if let Some(slot) = self.rows.borrow_mut().get_mut(row) {
            *slot = Some(Rc::clone(&steps));
        }
        steps
    }

    /// Gives a tag's steps.
    pub(crate) fn tag(&self, tag: usize) -> Rc<Steps> {
        if let Some(Some(known)) = self.tags.borrow().get(tag) {
            return Rc::clone(known);
        }
        let steps = Rc::new(tag_steps(self.history, self.places.get(tag).copied(), self.from_us, self.to_us));
        if let Some(slot) = self.tags.borrow_mut().get_mut(tag) {
            *slot = Some(Rc::clone(&steps));
        }
        steps
    }

    fn earlier(&self, from_us: i64) -> Self {
        Self::new(self.view, self.history, self.places, self.scene, (from_us, self.to_us))
    }

    fn expression(&self, row: usize) -> Rc<Steps> {
        let Some(RowExpr { leaves, tree }) = self.view.rows.get(row) else {
            return Rc::new(nothing(self.from_us));
        };
        let leaves: Vec<Rc<Steps>> = leaves.iter().map(|leaf| self.leaf(leaf)).collect();
        match (tree, leaves.first()) {
            (Tree::Leaf(0), Some(only)) => Rc::clone(only),
            _ => Rc::new(self.pointwise(tree, &leaves)),
        }
    }

    fn leaf(&self, leaf: &Leaf) -> Rc<Steps> {
        match *leaf {
            Leaf::Tag(tag) => self.tag(tag),
            Leaf::Debounce { row, stable_us } => {
                let begin = self.from_us.saturating_sub(stable_us).saturating_sub(DEBOUNCE_MEMORY_US);
                Rc::new(debounce(&self.earlier(begin).row(row), stable_us, self.from_us, self.to_us))
            }
            Leaf::Lag { row, span_us } => {
                let inner = self.earlier(self.from_us.saturating_sub(span_us)).row(row);
                Rc::new(lag(&inner, span_us, self.from_us, self.to_us))
            }
            Leaf::Rising { row } => Rc::new(edges(&self.row(row), true, self.to_us)),
            Leaf::Falling { row } => Rc::new(edges(&self.row(row), false, self.to_us)),
            Leaf::Rate { row } => Rc::new(rate(&self.row(row))),
        }
    }

    /// Evaluates a tree at the union of its leaves' instants, values held.
    fn pointwise(&self, tree: &Tree, leaves: &[Rc<Steps>]) -> Steps {
        let befores: Vec<Val> = leaves.iter().map(|l| l.before.clone()).collect();
        let before = evaluate(tree, &befores, self.scene);
        let since_us = if before.is_null() { None } else { leaves.iter().filter_map(|l| l.since_us).max() };
        let mut values = befores;
        let mut next: Vec<usize> = vec![0; leaves.len()];
        let mut list = Vec::new();
        let mut time_us = self.from_us;
        loop {
            let mut sample = false;
            let mut upcoming = i64::MAX;
            for ((leaf, at), value) in leaves.iter().zip(&mut next).zip(&mut values) {
                if let Some(step) = leaf.list.get(*at).filter(|step| step.time_us == time_us) {
                    *value = step.value.clone();
                    sample |= step.sample;
                    *at += 1;
                }
                upcoming = upcoming.min(leaf.list.get(*at).map_or(i64::MAX, |step| step.time_us));
            }
            list.push(Step { time_us, value: evaluate(tree, &values, self.scene), sample });
            if upcoming == i64::MAX {
                return Steps { before, since_us, list };
            }
            time_us = upcoming;
        }
    }
}

fn nothing(from_us: i64) -> Steps {
    let list = vec![Step { time_us: from_us, value: Val::Null, sample: false }];
    Steps { before: Val::Null, since_us: None, list }
}

/// Makes a tag's step function: each good point holds to the next point, at most its hold (F3).
fn tag_steps(history: &History, place: Option<usize>, from_us: i64, to_us: i64) -> Steps {
    let Some(tag) = place.and_then(|place| history.points_of(place)) else { return nothing(from_us) };
    let points = tag.points();
    let first = tag.at(from_us);
    let mut steps = nothing(from_us);
    let mut held_until = i64::MIN;
    if let Some(point) = first.checked_sub(1).and_then(|at| points.get(at))
        && !point.value.is_null()
        && point.held_until_us() >= from_us
    {
        steps.before = point.value.clone();
        steps.since_us = Some(point.time_us);
        held_until = point.held_until_us();
        if held_until > from_us
            && let Some(step) = steps.list.first_mut()
        {
            step.value = point.value.clone();
        }
    }
    for point in points.get(first..).unwrap_or_default() {
        if point.time_us >= to_us {
            break;
        }
        if held_until > from_us && held_until < point.time_us {
            steps.list.push(Step { time_us: held_until, value: Val::Null, sample: false });
        }
        let good = !point.value.is_null();
        held_until = if good { point.held_until_us() } else { i64::MIN };
        let step = Step { time_us: point.time_us, value: point.value.clone(), sample: good };
        match steps.list.last_mut() {
            Some(last) if last.time_us == step.time_us => *last = step,
            _ => steps.list.push(step),
        }
    }
    if held_until > from_us && held_until < to_us {
        steps.list.push(Step { time_us: held_until, value: Val::Null, sample: false });
    }
    steps
}

/// Puts samples onto a function given by its changes; the first change lies at or before the range.
fn overlay(changes: &[(i64, Val)], samples: &[i64], from_us: i64, to_us: i64) -> Steps {
    let mut steps = nothing(from_us);
    let at = changes.partition_point(|(time, _)| *time < from_us);
    let earlier = at.checked_sub(1).and_then(|at| changes.get(at));
    steps.before = earlier.map_or(Val::Null, |(_, value)| value.clone());
    let mut value = steps.before.clone();
    let mut changes = changes.get(at..).unwrap_or_default().iter().filter(|(t, _)| *t < to_us).peekable();
    let mut samples = samples.iter().filter(|t| (from_us..to_us).contains(*t)).peekable();
    steps.list.clear();
    let mut time_us = from_us;
    loop {
        if let Some((_, changed)) = changes.next_if(|(t, _)| *t == time_us) {
            value = changed.clone();
        }
        let sample = samples.next_if(|t| **t == time_us).is_some() && !value.is_null();
        steps.list.push(Step { time_us, value: value.clone(), sample });
        let next = [changes.peek().map(|(t, _)| *t), samples.peek().map(|t| **t)];
        match next.into_iter().flatten().min() {
            Some(next) => time_us = next,
            None => return steps,
        }
    }
}

fn sample_times(steps: &Steps) -> Vec<i64> {
    steps.list.iter().filter(|step| step.sample).map(|step| step.time_us).collect()
}

/// Takes a value over only after it has stood for `stable_us`; NULL at once.
fn debounce(inner: &Steps, stable_us: i64, from_us: i64, to_us: i64) -> Steps {
    let mut changes: Vec<(i64, Val)> = Vec::new();
    let mut say = |time: i64, value: Val| {
        // An expiry that a later value overtakes never happens.
        while changes.last().is_some_and(|(t, _)| *t >= time) {
            changes.pop();
        }
        changes.push((time, value));
    };
    let mut accepted = false;
    let mut at = 0;
    while let Some(step) = inner.list.get(at) {
        let same = |other: &&Step| other.value == step.value;
        let run = inner.list.get(at..).unwrap_or_default().iter().take_while(same).count();
        let end = inner.list.get(at + run).map_or(to_us, |next| next.time_us);
        if step.value.is_null() {
            say(step.time_us, Val::Null);
            accepted = false;
        } else if end - step.time_us >= stable_us {
            say(step.time_us.saturating_add(stable_us), step.value.clone());
            accepted = true;
            if end < to_us {
                say(end.saturating_add(DEBOUNCE_MEMORY_US), Val::Null);
            }
        } else if !accepted && at == 0 {
            say(step.time_us, Val::Null);
        }
        at += run.max(1);
    }
    overlay(&changes, &sample_times(inner), from_us, to_us)
}

/// Gives the value of `span_us` ago, at the instants of now.
fn lag(inner: &Steps, span_us: i64, from_us: i64, to_us: i64) -> Steps {
    let shifted = inner.list.iter().map(|step| (step.time_us.saturating_add(span_us), step.value.clone()));
    let changes: Vec<(i64, Val)> = shifted.collect();
    let mut steps = overlay(&changes, &sample_times(inner), from_us, to_us);
    steps.before = inner.before.clone();
    steps
}

/// Gives true for the microsecond in which a condition becomes `target`.
fn edges(inner: &Steps, target: bool, to_us: i64) -> Steps {
    let mut list: Vec<Step> = Vec::new();
    let mut previous = inner.before.as_bool();
    let mut steps = inner.list.iter().peekable();
    while let Some(step) = steps.next() {
        let now = step.value.as_bool();
        let edge = previous == Some(!target) && now == Some(target);
        let value = now.map_or(Val::Null, |_| Val::Bool(edge));
        list.push(Step { time_us: step.time_us, value, sample: step.sample });
        let after = step.time_us.saturating_add(1);
        let next = steps.peek().map_or(to_us, |next| next.time_us);
        if edge && after < next {
            list.push(Step { time_us: after, value: Val::Bool(false), sample: false });
        }
        previous = now;
    }
    Steps { before: Val::Null, since_us: None, list }
}

/// Gives the change per second from one sample to the next, held; NULL before a range's first sample.
fn rate(inner: &Steps) -> Steps {
    let mut known = inner.since_us.zip(inner.before.as_num());
    let mut list = Vec::with_capacity(inner.list.len());
    let mut held = Val::Null;
    for step in &inner.list {
        match step.value.as_num() {
            Some(x) if step.sample => {
                held = known.map_or(Val::Null, |(time, before)| {
                    Val::num((x - before) / ((step.time_us - time) as f64 / 1e6))
                });
                known = Some((step.time_us, x));
            }
            Some(_) => {}
            None => {
                held = Val::Null;
                known = None;
            }
        }
        list.push(Step {
            time_us: step.time_us,
            value: held.clone(),
            sample: step.sample && !held.is_null(),
        });
    }
    Steps { before: Val::Null, since_us: None, list }
}
