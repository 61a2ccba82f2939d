//! proxy: see ARCHITECTURE.md.
fn main() {}
