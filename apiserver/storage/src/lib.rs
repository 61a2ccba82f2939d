//! apiserver/storage: see ARCHITECTURE.md.
