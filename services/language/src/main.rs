//! The language worker as a program.
fn main() {}
