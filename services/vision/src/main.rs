//! The vision worker as a program.
fn main() {}
