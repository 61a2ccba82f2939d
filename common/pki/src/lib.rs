//! common/pki: see ARCHITECTURE.md.
