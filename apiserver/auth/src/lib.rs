//! Who a caller is and what the caller may do: authentication, RBAC, the Node authorizer and service-account tokens.
//!
//! Nothing here reads the store or speaks HTTP. The API server hands in verified TLS peers, headers and cached objects
//! (`Lookup`), feeds object changes to the RBAC index and the node graph, and writes what the decisions ask for.

pub mod attributes;
pub mod authenticate;
pub mod impersonate;
pub mod lookup;
pub mod node;
pub mod rbac;
pub mod reviews;
pub mod service_account;
pub mod user;

pub use attributes::{
    Answer, Attributes, Authorizer, Decision, NonResourceRule, ResourceRule, Rules, Union,
};
pub use keelson_api::status::{Qualified, Status};
pub use lookup::{Lookup, LookupError};
pub use user::User;
