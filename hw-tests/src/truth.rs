//! The log of what the plant sent, and what can be proved with it.
//!
//! `log` writes one JSON line for each reply and publish before it is sent; `decode` and `readings`
//! read the log back into values, slowly and by rules of their own; `compare` holds them against what
//! was found in the lake.
//!
//! Invariant: a value that a client saw stands in the log. The reverse does not hold: a reply can be
//! logged and never arrive, if its connection breaks in that moment.
//!
//! # How the match works
//!
//! *MQTT*: timestamps of one machine's payloads rise strictly, so (machine, tag, timestamp) names a
//! value: each publish that had a receiver must be in the lake exactly once, with its value.
//!
//! *Modbus*: a reply has no time that the agent repeats, so values are matched in their order: for
//! each machine and tag, the good values of the lake by event time must be the values of the replies
//! by send time, from which only these may be missing: replies of an excused time (the agent was
//! killed before its flush, D5; they are in no book, D14), as the last ones of their connection; the
//! last reply of a connection that the client closed (it gave up waiting, or was killed); replies held
//! back by the fault `late`. Replies that another fault bent hold no value. Tags of the signal `polls`
//! count the replies of their block, so that each of their values is unlike every other and the order
//! is unambiguous: a loss or a double anywhere in the block shows, and can be named.
//!
//! The match needs a plant whose tags have no deadband, and one client: what another one reads (for
//! instance `check --connect`) counts as a reply that nobody stored.

pub mod compare;
pub mod decode;
pub mod entry;
pub mod log;
pub mod readings;
