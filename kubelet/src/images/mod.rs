//! Images on behalf of pods: pull policy, credentials, words for failures, and collecting what nobody uses.

pub mod auth;
pub mod collect;
pub mod fetch;
