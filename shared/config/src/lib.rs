//! Layered configuration: defaults, file, environment, flags.
