//! The verbs on stored objects, one file each. What they have in common — decoding a body, the options of a query, views of
//! the answer, admission — stands beside them.

pub mod admission;
pub mod body;
pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod device_claims;
pub mod get;
pub mod guard;
pub mod list;
pub mod options;
pub mod patch;
pub mod policy_params;
pub mod update;
pub mod view;
pub mod watch;
