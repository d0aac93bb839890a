//! The lake: every row, once, with its bits (D16).
//!
//! `db` names the SQL client, `row` turns cells into the columns `vals` and `extra` and back.

pub mod db;
pub mod row;
