//! scheduler: see ARCHITECTURE.md.
fn main() {}
