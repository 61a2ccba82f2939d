//! kube-apiserver: HTTP, filters, verbs, discovery, proxying and start-up objects around the crates that know kinds, storage,
//! access and admission. See ARCHITECTURE.md for the course of a request.

pub mod addresses;
pub mod assemble;
pub mod audit;
pub mod body;
pub mod context;
pub mod discovery;
pub mod duration;
pub mod error;
pub mod feeds;
pub mod field_owner;
pub mod filters;
pub mod flags;
pub mod following;
pub mod health;
pub mod lookup;
pub mod metrics;
pub mod negotiate;
pub mod objects;
pub mod options;
pub mod protobuf;
pub mod proxying;
pub mod query;
pub mod request;
pub mod request_info;
pub mod resources;
pub mod response;
pub mod routes;
pub mod server;
pub mod serving;
pub mod startup;
pub mod subresources;
#[cfg(feature = "testing")]
pub mod testing;
pub mod verbs;
pub mod webhook_client;
