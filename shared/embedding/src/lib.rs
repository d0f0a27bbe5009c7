//! Image identity and the store of features.
