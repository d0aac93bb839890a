//! What the crate promises, seen from outside.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod it {
    mod functions;
    mod habits;
    mod hostile;
    mod oracle;
    mod parity;
    mod plant;
    mod time;
}
