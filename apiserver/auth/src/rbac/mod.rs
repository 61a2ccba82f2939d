//! Role-based access control: the index that decides, the escalation checks, and the policy that every cluster starts with.

pub mod bootstrap;
pub mod escalation;
mod index;
pub mod rule;

pub use index::Index;
pub use rule::Rule;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";
