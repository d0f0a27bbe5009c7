//! The wire contract: generated code, validated domain types, error kinds.
