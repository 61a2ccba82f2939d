//! dns: see ARCHITECTURE.md.
fn main() {}
