//! cluster: see ARCHITECTURE.md.
fn main() {}
