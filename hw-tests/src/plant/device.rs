//! One unit: its tables, and what it answers to a request.
//!
//! No I/O: `modbus` carries the answers. A request that reaches outside the addresses that tags stand
//! at is refused with exception 2; what lies between two tags reads as 0, as in most devices.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::fault::{Fault, FaultKind};
use super::model::Model;
use super::registers;
use super::tag::{Signal, Table, Tag};

/// *Source*: Modbus Application Protocol V1.1b3, section 6.1 to 6.4.
const MAX_BITS: u16 = 2000;
const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// A read, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Function code.
    pub function: u8,
    /// 0-based, as sent.
    pub address: u16,
    /// Registers or bits.
    pub count: u16,
}

impl Request {
    /// Reads a request's PDU; `None` is no read at all.
    #[must_use]
    pub fn from_pdu(pdu: &[u8]) -> Option<Self> {
        match *pdu {
            [function, a, b, c, d] => Some(Self {
                function,
                address: u16::from_be_bytes([a, b]),
                count: u16::from_be_bytes([c, d]),
            }),
            _ => None,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Functions 3 and 4.
    Registers(Vec<u16>),
    /// Functions 1 and 2.
    Bits(Vec<bool>),
    /// A refusal.
    Exception(u8),
}

/// What a device does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing comes.
    Silence,
    /// The connection is closed.
    Close,
    /// A reply.
    Reply {
        /// The PDU as sent, which a fault may have bent.
        pdu: Vec<u8>,
        /// What the device meant to say.
        content: Content,
        /// Added to the unit id.
        unit_shift: u8,
        /// How long the reply is held back.
        delay: Duration,
        /// The fault that bent or delayed it.
        fault: Option<FaultKind>,
    },
}

/// One unit.
#[derive(Debug)]
pub struct Device {
    machine: String,
    unit_id: u8,
    max_registers: u16,
    tags: Vec<Tag>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    model: Model,
    frozen: Option<Model>,
    /// One for each tag.
    polls: Vec<u64>,
}

impl Device {
    /// Makes a unit.
    #[must_use]
    pub fn new(machine: &str, unit_id: u8, max_registers: u16, tags: Vec<Tag>, seed: u64) -> Self {
        let state = State { model: Model::new(seed), frozen: None, polls: vec![0; tags.len()] };
        Self { machine: machine.to_owned(), unit_id, max_registers, tags, state: Mutex::new(state) }
    }

    /// Gives the machine's name, without the site.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Gives the unit id.
    #[must_use]
    pub const fn unit_id(&self) -> u8 {
        self.unit_id
    }

    /// Gives the tags.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// Answers a request, `elapsed` after the plant's start.
    pub fn answer(&self, request: Request, elapsed: Duration, faults: &[Fault]) -> Answer {
        let has = |kind| faults.iter().find(|fault| fault.kind == kind);
        if has(FaultKind::Dead).is_some() {
            return Answer::Silence;
        }
        if has(FaultKind::Close).is_some() {
            return Answer::Close;
        }
        let content = match has(FaultKind::Exception) {
            Some(fault) => Content::Exception(fault.code),
            None => self.read(request, elapsed, has(FaultKind::Frozen).is_some()),
        };
        let sent = match has(FaultKind::WrongLength) {
            Some(_) => wrong_length(content.clone()),
            None => content.clone(),
        };
        let bent = [
            FaultKind::Exception,
            FaultKind::WrongUnit,
            FaultKind::WrongLength,
            FaultKind::Late,
            FaultKind::Frozen,
        ];
        Answer::Reply {
            pdu: pdu(request.function, &sent),
            content,
            unit_shift: u8::from(has(FaultKind::WrongUnit).is_some()),
            delay: has(FaultKind::Late).map_or(Duration::ZERO, |fault| fault.delay),
            fault: bent.into_iter().find(|kind| has(*kind).is_some()),
        }
    }

    fn read(&self, request: Request, elapsed: Duration, frozen: bool) -> Content {
        let Some(table) = Table::from_function(request.function) else {
            return Content::Exception(ILLEGAL_FUNCTION);
        };
        let most = if table.is_bits() { MAX_BITS } else { self.max_registers };
        if request.count == 0 || request.count > most {
            return Content::Exception(ILLEGAL_VALUE);
        }
        if !self.has_addresses(table, request) {
            return Content::Exception(ILLEGAL_ADDRESS);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.run_to(elapsed, frozen);
        if table.is_bits() {
            self.read_bits(&mut state, table, request)
        } else {
            self.read_registers(&mut state, table, request)
        }
    }

    fn has_addresses(&self, table: Table, request: Request) -> bool {
        let tags = || self.tags.iter().filter(|tag| tag.table == table);
        let first = tags().map(|tag| u32::from(tag.address)).min();
        let end = tags().map(Tag::end).max();
        let (from, to) = (u32::from(request.address), u32::from(request.address) + u32::from(request.count));
        first.is_some_and(|first| first <= from) && end.is_some_and(|end| to <= end)
    }

    fn read_bits(&self, state: &mut State, table: Table, request: Request) -> Content {
        let mut bits = vec![false; usize::from(request.count)];
        for (index, tag) in self.tags.iter().enumerate() {
            if tag.table == table && tag.lies_in(request.address, request.count) {
                let shown = state.show(index, tag.signal);
                if let Some(place) = bits.get_mut(usize::from(tag.address - request.address)) {
                    *place = registers::bit(&shown);
                }
            }
        }
        Content::Bits(bits)
    }

    fn read_registers(&self, state: &mut State, table: Table, request: Request) -> Content {
        let mut values = vec![0u16; usize::from(request.count)];
        for (index, tag) in self.tags.iter().enumerate().filter(|(_, tag)| tag.table == table) {
            // A tag that is only partly asked for is shown, but it is no reply with this tag.
            let shown = if tag.lies_in(request.address, request.count) {
                state.show(index, tag.signal)
            } else {
                state.model().show(tag.signal, state.polls.get(index).copied().unwrap_or(0))
            };
            for (n, (value, mask)) in registers::registers(tag, &shown).into_iter().enumerate() {
                let place = (usize::from(tag.address) + n).checked_sub(usize::from(request.address));
                if let Some(register) = place.and_then(|place| values.get_mut(place)) {
                    *register = (*register & !mask) | value;
                }
            }
        }
        Content::Registers(values)
    }
}

impl State {
    fn run_to(&mut self, elapsed: Duration, frozen: bool) {
        self.model.run_to(elapsed);
        match (frozen, &self.frozen) {
            (true, None) => self.frozen = Some(self.model.clone()),
            (false, Some(_)) => self.frozen = None,
            _ => {}
        }
    }

    fn model(&self) -> &Model {
        self.frozen.as_ref().unwrap_or(&self.model)
    }

    fn show(&mut self, index: usize, signal: Signal) -> super::model::Shown {
        let polls = self.polls.get_mut(index).map_or(0, |polls| {
            *polls += 1;
            *polls
        });
        self.model().show(signal, polls)
    }
}

fn wrong_length(content: Content) -> Content {
    match content {
        Content::Registers(mut values) if values.len() > 1 => {
            values.pop();
            Content::Registers(values)
        }
        Content::Registers(mut values) => {
            values.push(0);
            Content::Registers(values)
        }
        Content::Bits(mut bits) => {
            bits.extend([false; 8]);
            Content::Bits(bits)
        }
        exception @ Content::Exception(_) => exception,
    }
}

/// Writes a reply's PDU. *Source*: Modbus Application Protocol V1.1b3, sections 6.1 to 6.4 and 7.
fn pdu(function: u8, content: &Content) -> Vec<u8> {
    let bytes: Vec<u8> = match content {
        Content::Exception(code) => return vec![function | 0x80, *code],
        Content::Registers(values) => values.iter().flat_map(|value| value.to_be_bytes()).collect(),
        Content::Bits(bits) => bits
            .chunks(8)
            .map(|eight| eight.iter().enumerate().fold(0, |byte, (n, bit)| byte | u8::from(*bit) << n))
            .collect(),
    };
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    [vec![function, length], bytes].concat()
}

#[cfg(test)]
#[path = "device/tests.rs"]
mod tests;
