//! Bytes that nobody meant, at every place where bytes come from outside: nothing panics, nothing takes more memory than its
//! input and its limits allow, and an error says what is wrong. (Images are tried where they are decoded, in
//! `shared/image/tests/hostile.rs`.)
//!
//! What is changed is a corpus in the tree: fixtures, example configurations, messages. `cargo test` tries each for some
//! seconds; `PROPTEST_CASES=100000 cargo test -p tessera-tests --test fuzz` tries four hundred times as much.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "fuzz/artifacts.rs"]
mod artifacts;
#[path = "fuzz/checkpoints.rs"]
mod checkpoints;
#[path = "fuzz/messages.rs"]
mod messages;
#[path = "fuzz/settings.rs"]
mod settings;

use tessera_testkit::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
