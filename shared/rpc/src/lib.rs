//! gRPC servers and clients: health, reflection, limits, deadlines, tasks, shutdown.
