//! End-to-end tests: a cluster of the test's own, driven by stock kubectl as a user would.
//!
//! `diff` compares our API server with upstream's, request by request (`make diff`). The tests are in `tests/`: `tidy` (the tree itself), `root_walk` (issue by issue what a user does on one node).

pub mod cluster;
pub mod conformance;
pub mod diff;
