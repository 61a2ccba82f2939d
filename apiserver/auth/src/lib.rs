//! apiserver/auth: see ARCHITECTURE.md.
