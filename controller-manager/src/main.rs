//! controller-manager: see ARCHITECTURE.md.
fn main() {}
