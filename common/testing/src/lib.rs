//! common/testing: see ARCHITECTURE.md.
