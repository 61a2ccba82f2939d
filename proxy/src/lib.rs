//! kube-proxy: Services as nftables maps.
//!
//! The path of a change: [`watch`] (informers) → [`model`] (what each address of a Service means, pure) → [`ruleset`] (map
//! elements, pure) → [`transaction`] (the difference to what is in the kernel, as text) → `keelson_net::nft`. A Service's
//! change costs as many elements as it has endpoints, whatever else there is. NetworkPolicy is not here yet.

pub mod config;
pub mod model;
pub mod ruleset;
pub mod sync;
pub mod transaction;
pub mod watch;
