//! The files of a checkpoint: configurations with the reference's class defaults.
