//! The architecture's rules, as far as they can be read off the source and the dependency graph. Each rule is a
//! function that returns what breaks it, and is fed a bad sample beside its definition.

#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/places.rs"]
mod places;
#[path = "tidy/writing.rs"]
mod writing;

use dependencies::Graph;
use files::{Source, TextFile, sources, text_files};

/// Fails with every violation, one a line.
fn none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}

fn in_every_source(rule: &str, violations: impl Fn(&Source) -> Vec<String>) {
    none(rule, &sources().iter().flat_map(violations).collect::<Vec<_>>());
}

fn in_every_file(rule: &str, violations: impl Fn(&TextFile) -> Vec<String>) {
    none(rule, &text_files().iter().flat_map(violations).collect::<Vec<_>>());
}

#[test]
fn the_gateway_links_no_candle() {
    let graph = Graph::of_the_workspace();
    none("the gateway schedules, it does not compute", &graph.links(&["tessera-gateway"], "candle"));
}

#[test]
fn libraries_of_the_model_side_link_no_tonic() {
    let libraries = ["anyres", "image", "prompt", "tensor", "kernels", "model", "embedding", "store", "checkpoint"];
    let libraries = libraries.map(|name| format!("tessera-{name}"));
    let names: Vec<&str> = libraries.iter().map(String::as_str).collect();
    none("the wire is not their business", &Graph::of_the_workspace().links(&names, "tonic"));
}

#[test]
fn no_service_depends_on_another() {
    none("only `tessera` composes services", &Graph::of_the_workspace().services_on_services());
}

#[test]
fn a_crate_depends_only_on_those_to_its_left() {
    none("the layers are listed in the architecture", &Graph::of_the_workspace().against_the_layers());
}

#[test]
fn only_the_model_depends_on_candle() {
    none("tensors of candle stay in shared/model", &Graph::of_the_workspace().candle_outside_the_model());
}

#[test]
fn the_testkit_is_only_for_tests() {
    none("fixtures are a dev-dependency", &Graph::of_the_workspace().testkit_in_products());
}

#[test]
fn the_engines_policy_touches_no_tensor() {
    in_every_source("scheduler, blocks and sequence are tested with a fake model", places::tensors_in_policy);
}

#[test]
fn generated_types_are_named_only_at_the_edges() {
    in_every_source("convert to domain types at the boundary", places::generated_types);
}

#[test]
fn status_codes_are_decided_in_one_file() {
    in_every_source("return an error kind, shared/api/src/status.rs decides the code", places::status_codes);
}

#[test]
fn the_environment_is_read_only_by_the_configuration() {
    in_every_source("read it through shared/config", places::environment);
}

#[test]
fn tasks_are_spawned_only_through_the_tracker() {
    in_every_source("shutdown waits for tracked tasks only", places::spawned_tasks);
}

#[test]
fn devices_are_told_apart_in_one_place() {
    in_every_source("choose the device at run time, behind the attention and device modules", places::features);
}

#[test]
fn decoder_and_attention_are_written_once() {
    in_every_source("the model is configured, not copied", places::variants);
}

#[test]
fn every_queue_has_a_bound() {
    in_every_source("everything that can grow has a bound", places::unbounded_queues);
}

#[test]
fn no_source_file_is_long() {
    in_every_source("one idea a file", writing::long_file);
}

#[test]
fn products_neither_unwrap_nor_postpone() {
    in_every_source("return the error, finish the work", writing::shortcuts);
}

#[test]
fn every_module_says_what_it_is() {
    in_every_source("a file starts with //!", writing::missing_module_doc);
}

#[test]
fn nothing_points_outside_the_repository() {
    in_every_file("whoever clones has only the repository", writing::foreign_paths);
}

#[test]
fn every_dependency_says_why_it_is_here() {
    in_every_file("a comment above each group of dependencies", manifest::unexplained_dependencies);
}

#[test]
fn panics_unwind_in_every_profile() {
    in_every_file("one hostile image must not end a process", manifest::aborting_profiles);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    in_every_file("[lints] workspace = true", manifest::missing_lints);
}

#[test]
fn every_example_configuration_is_toml() {
    in_every_file("an example must at least parse", manifest::broken_example);
}
