//! The kinds of events.k8s.io: Event, whose rules stand beside those of the core Event it is stored as.

pub use super::core::event::NewRules as EventRules;
