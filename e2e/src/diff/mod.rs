//! Upstream's API server and ours beside each other: one corpus of requests, sent to both, and what differs in the answers.
//!
//! `corpus` reads the data in `e2e/diff/corpus`, `suite` and `mutate` make scenarios of it, `servers` starts both servers, `client` sends,
//! `normal` takes out of an answer what may differ, `compare` finds what differs and `explained` holds what does so for a good reason.

pub mod client;
pub mod compare;
pub mod corpus;
pub mod explained;
pub mod keys;
pub mod mutate;
pub mod normal;
pub mod resources;
pub mod run;
pub mod scenario;
pub mod servers;
pub mod suite;
pub mod surface;
