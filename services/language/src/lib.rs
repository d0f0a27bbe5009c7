//! Language worker: the engine.
