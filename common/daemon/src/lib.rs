//! common/daemon: see ARCHITECTURE.md.
