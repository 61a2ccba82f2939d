//! kubelet/shim: see ARCHITECTURE.md.
