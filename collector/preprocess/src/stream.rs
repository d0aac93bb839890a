//! Closes windows as the data comes.
//!
//! For each record that was read, the caller gives what it holds, in the order of the record:
//! [`StreamDriver::heard`], then births, the rows that the ledger found new, progress, and at the end
//! [`StreamDriver::contiguous`] as the ledger sees it. When a flush is made: [`StreamDriver::clock`],
//! then [`StreamDriver::close`], [`StreamDriver::late`], [`StreamDriver::controls`],
//! [`StreamDriver::save`] go into the transaction, [`StreamDriver::open`] to the online store after it.
//!
//! # Restart
//! The lake is the changelog (D12). On assignment, for each machine of the shard:
//! 1. [`StreamDriver::restore`] with the bytes of the newest [`StreamDriver::save`], if there are any;
//!    older ones are right too: windows come out again with the same bits, and F9 writes nothing.
//!    A machine must be saved in the first flush that has rows of it, later at most once a minute.
//!    Then [`StreamDriver::stored`] with the newest row that the offline store has of each view.
//! 2. [`StreamDriver::birth`] with every birth of its streams, as stored (any order of streams).
//! 3. [`StreamDriver::replay`] with its lake rows from [`StreamDriver::rows_from_us`] on, in any order.
//! 4. [`StreamDriver::control`] with the controls stored since.
//! 5. [`StreamDriver::contiguous`] of each stream from the ledger.

mod machine;
mod panes;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_protocol::{Birth, MachineName, Progress, StreamId};

use crate::feature::{FeatureRow, ViewSchema};
use crate::graph::{Catalog, View};
use crate::input::InputRow;
use crate::watermark::Control;
use machine::Machine;

/// Windows to be computed again from the lake (F6).
#[derive(Debug, Clone)]
pub struct RepairRequest {
    /// Of which view.
    pub view: Arc<View>,
    /// Of which machine.
    pub machine: MachineName,
    /// Windows whose end (cell end) lies in `(hour_us, hour_us + 1 h]`. *Units*: microseconds since
    /// 1970-01-01 UTC.
    pub hour_us: i64,
}

/// Runs the graphs of one shard on data as it comes.
#[derive(Debug)]
pub struct StreamDriver {
    catalog: Arc<Catalog>,
    stall_after_us: i64,
    machines: BTreeMap<MachineName, Machine>,
    clocks: Clocks,
    controls: Vec<Control>,
}

/// The clocks of the shard's topics. *Units*: microseconds since 1970-01-01 UTC.
#[derive(Debug, Default)]
struct Clocks(BTreeMap<String, i64>);

impl Clocks {
    /// Gives a topic's clock; for a stream of which no record was read yet, the fastest.
    fn of(&self, topic: Option<&str>) -> i64 {
        let known = topic.map(|topic| self.0.get(topic).copied().unwrap_or(i64::MIN));
        known.unwrap_or_else(|| self.0.values().copied().max().unwrap_or(i64::MIN))
    }
}

impl StreamDriver {
    /// Makes a driver without memory. `stall_after_us`: a stream without a sign of life is given up (F5).
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, stall_after_us: i64) -> Self {
        let (machines, controls) = (BTreeMap::new(), Vec::new());
        Self { catalog, stall_after_us, machines, clocks: Clocks::default(), controls }
    }

    fn machine(&mut self, name: &MachineName) -> &mut Machine {
        if !self.machines.contains_key(name) {
            self.machines.insert(name.clone(), Machine::new(&self.catalog, name));
        }
        // The entry was made above; `or_insert_with` only satisfies the type.
        self.machines.entry(name.clone()).or_insert_with(|| Machine::new(&self.catalog, name))
    }

    /// Takes note that a record of a stream was read: its topic and append time.
    pub fn heard(&mut self, stream: &Arc<StreamId>, topic: &str, append_us: i64) {
        let machine = self.machine(&stream.machine);
        machine.chain(stream).heard(stream.epoch, topic, append_us);
        machine.touched = true;
        machine.unsaved |= machine.batched;
    }

    /// Takes what a stream's rows mean from a place on. A birth comes before the rows that it is about (D1);
    /// one that comes after them changes those that are still in memory and asks for repairs. Tells whether it says
    /// anything new: then stored rows that it is about, and that are in memory no more, go to [`Self::misread`].
    pub fn birth(&mut self, stream: &Arc<StreamId>, birth: &Birth) -> bool {
        self.machine(&stream.machine).birth(stream, birth)
    }

    /// Asks for repairs because rows of a machine with `from_us` ≤ event time ≤ `until_us` mean something else than
    /// they were taken for. *Units*: microseconds since 1970-01-01 UTC.
    pub fn misread(&mut self, machine: &MachineName, from_us: i64, until_us: i64) {
        self.machine(machine).misread(from_us, until_us);
    }

    /// Takes new rows, in any order.
    pub fn rows(&mut self, rows: &[InputRow]) {
        self.take(rows, true);
    }

    /// Takes rows from the lake after a restart: as [`Self::rows`], but no repair is asked for.
    pub fn replay(&mut self, rows: &[InputRow]) {
        self.take(rows, false);
    }

    fn take(&mut self, rows: &[InputRow], live: bool) {
        for of_stream in rows.chunk_by(|a, b| Arc::ptr_eq(&a.stream, &b.stream) || a.stream == b.stream) {
            if let Some(first) = of_stream.first() {
                self.machine(&first.stream.machine).rows(&first.stream, of_stream, live);
            }
        }
    }

    /// Takes what the ledger knows: 1..=`seq` of the stream are stored, rejected, lost or given up (D11).
    pub fn contiguous(&mut self, stream: &Arc<StreamId>, seq: u64) {
        let machine = self.machine(&stream.machine);
        machine.chain(stream).contiguous(stream.epoch, seq);
        machine.touched = true;
    }

    /// Takes a progress item.
    pub fn progress(&mut self, stream: &Arc<StreamId>, progress: &Progress, append_us: i64) {
        let machine = self.machine(&stream.machine);
        machine.chain(stream).progress(stream.epoch, progress, append_us);
        machine.touched = true;
    }

    /// Takes a topic's clock (F5): the append time of the last record read, or now when its end is
    /// reached. Streams that are silent for longer than `stall_after` are given up.
    pub fn clock(&mut self, topic: &str, now_us: i64) {
        let clock = self.clocks.0.entry(topic.to_owned()).or_insert(now_us);
        *clock = (*clock).max(now_us);
        let now_us = *clock;
        for machine in self.machines.values_mut() {
            machine.clock(topic, now_us, self.stall_after_us, &mut self.controls);
        }
    }

    /// Takes a control that an earlier process stored.
    pub fn control(&mut self, control: &Control) {
        let Control::GiveUp { stream, at_us } = control;
        let machine = self.machine(&stream.machine);
        machine.chain(stream).give_up(stream.epoch, *at_us);
        machine.touched = true;
    }

    /// Gives the controls made since the last call; they belong into the flush's transaction.
    #[must_use]
    pub fn controls(&mut self) -> Vec<Control> {
        std::mem::take(&mut self.controls)
    }

    /// Gives the rows of the windows that can be closed now, by machine, view and time.
    #[must_use]
    pub fn close(&mut self) -> Vec<FeatureRow> {
        let mut closed = Vec::new();
        for machine in self.machines.values_mut() {
            machine.close(self.stall_after_us, &self.clocks, &mut closed);
        }
        closed
    }

    /// Gives the rows of `latest` views whose cell is still open and got a point since the last call, for
    /// the online store (F8).
    #[must_use]
    pub fn open(&mut self) -> Vec<FeatureRow> {
        self.machines.values_mut().flat_map(Machine::open).collect()
    }

    /// Gives what must be computed again from the lake (F6), each once.
    #[must_use]
    pub fn late(&mut self) -> Vec<RepairRequest> {
        let mut late = Vec::new();
        for (name, machine) in &mut self.machines {
            for (view, hour_us) in machine.late() {
                late.push(RepairRequest { view, machine: name.clone(), hour_us });
            }
        }
        late
    }

    /// Gives the state of the machines that changed since the last call, small (no rows).
    #[must_use]
    pub fn save(&mut self) -> Vec<(MachineName, Vec<u8>)> {
        let mut saved = Vec::new();
        for (name, machine) in &mut self.machines {
            if std::mem::take(&mut machine.unsaved) {
                saved.push((name.clone(), machine.save()));
            }
        }
        saved
    }

    /// Takes a machine's saved state. Bytes of another version or of no version are ignored: the machine
    /// is then rebuilt from all its rows.
    pub fn restore(&mut self, machine: &MachineName, bytes: &[u8]) {
        self.machine(machine).restore(bytes);
    }

    /// Takes note that the offline store holds a view's row of the machine with this event time, the newest
    /// (of this graph): what ends there or earlier was closed, also after the last [`Self::save`]. Call it
    /// after [`Self::restore`], so that a late row of such a window is a repair.
    pub fn stored(&mut self, machine: &MachineName, view: &ViewSchema, event_us: i64) {
        self.machine(machine).stored(view, event_us);
    }

    /// Gives from which event time on the machine's lake rows must be replayed; call it after
    /// [`Self::restore`] and the births. *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn rows_from_us(&self, machine: &MachineName) -> i64 {
        self.machines.get(machine).map_or(i64::MIN, Machine::rows_from_us)
    }

    /// Counts the points in memory, for metrics.
    #[must_use]
    pub fn points_in_memory(&self) -> usize {
        self.machines.values().map(Machine::points).sum()
    }

    /// Gives up to which event time a view's windows of a machine are closed, if any is.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn closed_until_us(&self, view: &View, machine: &MachineName) -> Option<i64> {
        self.machines.get(machine)?.closed_until_us(view)
    }

    /// Gives up to which event time (exclusive) the streams that carry a view's tags are complete (F5), for views
    /// that are computed from the lake. *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn complete_until_us(&self, view: &View, machine: &MachineName) -> Option<i64> {
        self.machines.get(machine)?.complete_until_us(view, self.stall_after_us, &self.clocks)
    }
}
