//! Gateway: prompt, routing, streaming.
