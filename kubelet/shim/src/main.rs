//! kubelet/shim: see ARCHITECTURE.md.
fn main() {}
