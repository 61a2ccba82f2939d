//! kubelet: see ARCHITECTURE.md.
fn main() {}
