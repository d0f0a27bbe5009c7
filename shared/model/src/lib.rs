//! The model: checkpoint loading, CLIP tower, projector, decoder, attention.
