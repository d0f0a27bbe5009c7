//! Rules about what may be named where.

use crate::{files::Source, lexer::has_word};

/// What builds a `tonic::Status`, besides `new`.
const STATUS_CONSTRUCTORS: [&str; 19] = [
    "new",
    "aborted",
    "already_exists",
    "cancelled",
    "data_loss",
    "deadline_exceeded",
    "failed_precondition",
    "from_error",
    "internal",
    "invalid_argument",
    "not_found",
    "out_of_range",
    "permission_denied",
    "resource_exhausted",
    "unauthenticated",
    "unavailable",
    "unimplemented",
    "unknown",
    "with_error_details",
];

pub(crate) fn tensors_in_policy(source: &Source) -> Vec<String> {
    let name = source.path.strip_prefix("services/language/src/").unwrap_or_default();
    let policy = ["scheduler", "blocks", "chain", "sequence", "branch", "answers", "beams"];
    let is_policy = name.split('/').any(|part| policy.contains(&part.trim_end_matches(".rs")));
    let names_tensors = |line: &str| line.contains("candle") || has_word(line, "tessera_model");
    found(source, |line| is_policy && names_tensors(line), "the engine's policy names the model or candle")
}

pub(crate) fn generated_types(source: &Source) -> Vec<String> {
    let service = source.path.split('/').take(3).collect::<Vec<_>>().join("/");
    let edge = source.path.starts_with("shared/api/")
        || source.path.starts_with("services/") && source.is_module(&service, "grpc")
        || ["inference", "upstream"].iter().any(|name| source.is_module("services/gateway/src", name))
        || source.path.starts_with("shared/client/");
    let names = |line: &str| {
        // The descriptors that reflection serves are bytes, not a type.
        let line = &line.replace("proto::DESCRIPTORS", "");
        has_word(line, "proto") && (line.contains("proto::") || line.contains("tessera_api") || is_import(line))
    };
    found(source, |line| !edge && names(line), "generated types away from the edge")
}

pub(crate) fn status_codes(source: &Source) -> Vec<String> {
    let decides = source.path == "shared/api/src/status.rs";
    let names_code = |line: &str| has_word(line, "Code") && (line.contains("Code::") || line.contains("tonic"));
    let builds = |line: &str| {
        line.split("Status::").skip(1).any(|rest| STATUS_CONSTRUCTORS.iter().any(|name| calls(rest, name)))
            && has_word(line, "Status")
    };
    found(
        source,
        |line| !decides && (names_code(line) || builds(line)),
        "a status code outside shared/api/src/status.rs",
    )
}

pub(crate) fn environment(source: &Source) -> Vec<String> {
    let reads =
        |line: &str| has_word(line, "env") && (line.contains("env::") || line.contains("std::env") || is_import(line));
    // A build script is told its output folder by cargo; a program's own arguments are not the environment.
    let exempt = source.path.starts_with("shared/config/") || source.path.ends_with("/build.rs");
    let is_main = source.path.ends_with("/src/main.rs");
    let arguments = |line: &str| is_main && line.contains("env::args");
    found(source, |line| !exempt && reads(line) && !arguments(line), "the environment is read outside shared/config")
}

pub(crate) fn spawned_tasks(source: &Source) -> Vec<String> {
    let tracker = source.path == "shared/rpc/src/tasks.rs";
    let spawns = |line: &str| line.contains("tokio::spawn") || line.contains("task::spawn");
    found(source, |line| !tracker && spawns(line), "a task that shutdown does not wait for")
}

pub(crate) fn features(source: &Source) -> Vec<String> {
    let allowed = ["attention", "device"].iter().any(|name| source.is_module("shared/model/src", name))
        || source.path == "shared/kernels/src/fatbin.rs";
    let gated = |line: &str| line.contains("cfg") && has_word(line, "feature");
    found(
        source,
        |line| !allowed && gated(line),
        "cfg(feature) outside the model's attention and device modules and the compiled kernels",
    )
}

/// One decoder and one attention: no part of the model asks which family it computes, and only attention takes a softmax.
pub(crate) fn variants(source: &Source) -> Vec<String> {
    let model = source.path.starts_with("shared/model/src/");
    let attention = source.is_module("shared/model/src", "attention");
    let branches = |line: &str| has_word(line, "Family");
    let attends = |line: &str| line.contains("softmax") && !attention;
    found(source, |line| model && (branches(line) || attends(line)), "a second decoder or attention")
}

/// Queues have a bound: what makes one without is not used.
pub(crate) fn unbounded_queues(source: &Source) -> Vec<String> {
    let makes = |line: &str| has_word(line, "unbounded_channel") || line.contains("std::sync::mpsc");
    found(source, makes, "a queue without a bound")
}

/// Whether the line begins an import.
fn is_import(line: &str) -> bool {
    line.trim_start().starts_with("use ") || line.trim_start().starts_with("pub use ")
}

/// Whether `rest`, what follows `Status::`, calls the function `name`.
fn calls(rest: &str, name: &str) -> bool {
    rest.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn found(source: &Source, bad: impl Fn(&str) -> bool, message: &str) -> Vec<String> {
    source.product_code().filter(|(_, line)| bad(line)).map(|(line, _)| source.at(line, message)).collect()
}

#[cfg(test)]
mod samples {
    use super::*;

    /// The lines of a one-file sample that break a rule.
    fn lines(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<usize> {
        let violations = rule(&Source::new(path, text));
        let line = |violation: &String| violation[path.len() + 1..].split(':').next().unwrap().parse().unwrap();
        violations.iter().map(line).collect()
    }

    #[test]
    fn tensors_in_the_policy_are_found() {
        let bad = "// candle\nuse candle_core::Tensor;\nuse tessera_model::KvCache;\n";
        for path in ["engine/scheduler.rs", "blocks.rs", "engine/sequence/state.rs"] {
            assert_eq!(lines(tensors_in_policy, &format!("services/language/src/{path}"), bad), [2, 3], "{path}");
        }
        assert!(lines(tensors_in_policy, "services/language/src/engine/runner.rs", bad).is_empty());
        let fake = "#[cfg(test)]\nmod tests {\n    use tessera_model::KvCache;\n}\n";
        assert!(lines(tensors_in_policy, "services/language/src/blocks.rs", fake).is_empty());
    }

    #[test]
    fn generated_types_in_the_middle_are_found() {
        let bad = "use tessera_api::proto::vision;\nuse tessera_api::{Image, proto};\nlet x = proto::Encode {};\nlet proto = 1;\n";
        for path in ["services/vision/src/batcher.rs", "services/vision/src/upstream.rs", "shared/rpc/src/server.rs"] {
            assert_eq!(lines(generated_types, path, bad), [1, 2, 3], "{path}");
        }
        for path in [
            "shared/api/src/convert.rs",
            "services/vision/src/grpc.rs",
            "services/gateway/src/grpc/generate.rs",
            "services/gateway/src/upstream/vision.rs",
            "services/gateway/src/inference/request.rs",
            "shared/client/src/store.rs",
            "tests/end_to_end.rs",
        ] {
            assert!(lines(generated_types, path, bad).is_empty(), "{path}");
        }
        assert!(
            lines(generated_types, "shared/rpc/src/server.rs", "use tessera_api::proto::DESCRIPTORS;\n").is_empty()
        );
    }

    #[test]
    fn a_status_code_elsewhere_is_found() {
        let bad = "use tonic::{Code, Status};\nlet a = Status::new(b, c);\nlet d = tonic::Status::unavailable(e);\n\
                   if f == Code::Ok {}\n";
        assert_eq!(lines(status_codes, "services/vision/src/grpc.rs", bad), [1, 2, 3, 4]);
        assert!(lines(status_codes, "shared/api/src/status.rs", bad).is_empty());
        let good = "use tonic::Status;\nOk(ExitCode::SUCCESS)\nhttp::StatusCode::OK\nfn g() -> Status {}\nstatus.code()\n\
                    HealthStatus::new(h)\n";
        assert!(lines(status_codes, "services/vision/src/grpc.rs", good).is_empty());
    }

    #[test]
    fn a_look_at_the_environment_is_found() {
        let bad = "use std::env;\nlet a = env::var(b);\nlet c = std::env::temp_dir();\n";
        assert_eq!(lines(environment, "shared/rpc/src/server.rs", bad), [1, 2, 3]);
        assert!(lines(environment, "shared/config/src/sources.rs", bad).is_empty());
        let arguments = "let a = std::env::args_os();\nlet b = env!(c);\n";
        assert!(lines(environment, "services/tessera/src/main.rs", arguments).is_empty());
        assert_eq!(lines(environment, "services/tessera/src/up.rs", arguments), [1]);
    }

    #[test]
    fn a_task_without_the_tracker_is_found() {
        let bad = "tokio::spawn(a);\ntokio::task::spawn_blocking(b);\ntasks.spawn(c);\n";
        assert_eq!(lines(spawned_tasks, "services/vision/src/batcher.rs", bad), [1, 2]);
        assert!(lines(spawned_tasks, "shared/rpc/src/tasks.rs", bad).is_empty());
    }

    #[test]
    fn a_second_decoder_or_attention_is_found() {
        let bad = "match config.family { Family::Llama => a }\nlet p = ops::softmax_last_dim(&s)?;\n";
        assert_eq!(lines(variants, "shared/model/src/language/block.rs", bad), [1, 2]);
        assert_eq!(lines(variants, "shared/model/src/attention.rs", bad), [1]);
        assert!(lines(variants, "shared/checkpoint/src/text.rs", bad).is_empty());
    }

    #[test]
    fn a_queue_without_a_bound_is_found() {
        let bad = "let (a, b) = mpsc::unbounded_channel();\nuse std::sync::mpsc;\nlet (c, d) = mpsc::channel(8);\n";
        assert_eq!(lines(unbounded_queues, "services/vision/src/device.rs", bad), [1, 2]);
    }

    #[test]
    fn a_feature_gate_elsewhere_is_found() {
        let bad = "#[cfg(feature = \"cuda\")]\nif cfg!(feature = \"cuda\") {}\n#[cfg(all(unix, feature = \"x\"))]\nlet feature = 1;\n";
        assert_eq!(lines(features, "shared/model/src/language.rs", bad), [1, 2, 3]);
        for path in ["shared/model/src/device.rs", "shared/model/src/attention/cuda.rs", "shared/kernels/src/fatbin.rs"]
        {
            assert!(lines(features, path, bad).is_empty(), "{path}");
        }
    }
}
