//! common/image: see ARCHITECTURE.md.
