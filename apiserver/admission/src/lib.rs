//! apiserver/admission: see ARCHITECTURE.md.
