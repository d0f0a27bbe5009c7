//! Vision worker: images to features.
