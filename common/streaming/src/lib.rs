//! common/streaming: see ARCHITECTURE.md.
