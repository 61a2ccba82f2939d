//! charts/example/server: see ARCHITECTURE.md.
fn main() {}
