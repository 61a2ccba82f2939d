//! apiserver/registry: see ARCHITECTURE.md.
