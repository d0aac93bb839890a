//! What the crate promises, seen from outside.

mod it {
    mod functions;
    mod plant;
}
