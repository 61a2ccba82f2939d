//! common/api: see ARCHITECTURE.md.
