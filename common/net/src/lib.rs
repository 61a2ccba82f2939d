//! common/net: see ARCHITECTURE.md.
