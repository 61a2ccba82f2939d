//! apiserver/schema: see ARCHITECTURE.md.
