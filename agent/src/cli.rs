//! What the command line does, a file for each group of verbs. Printing happens here and nowhere else.

pub mod buffer;
pub mod check;
pub mod plan;
