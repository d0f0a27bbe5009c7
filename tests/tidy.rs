//! Tidy rules.
