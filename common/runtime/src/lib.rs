//! common/runtime: see ARCHITECTURE.md.
