//! apiserver: see ARCHITECTURE.md.
fn main() {}
