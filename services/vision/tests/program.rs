//! The program as an operator runs it.

use tessera_testkit::service;

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_tessera-vision");

#[test]
fn sigterm_ends_a_service_that_has_nothing_left_to_do() {
    service::ends_at_sigterm(EXECUTABLE);
}

#[test]
fn everything_wrong_with_the_configuration_is_said_at_once() {
    service::says_everything_wrong_at_once(EXECUTABLE);
}

#[test]
fn settings_in_force_can_be_printed_and_read_back() {
    service::prints_settings_that_it_reads_back(EXECUTABLE);
}

#[test]
fn a_checkpoint_that_is_missing_is_named() {
    service::names_a_missing_checkpoint(EXECUTABLE);
}

#[test]
fn what_the_machine_cannot_do_is_named() {
    service::names_what_the_machine_cannot_do(EXECUTABLE);
}
