//! The cluster's DNS server (Kubernetes DNS specification 1.1).
//!
//! [`watch`] keeps a [`zone::Zone`] as the API says; [`answer`] turns a query into records of the zone or hands it to
//! [`forward`]; [`serve`] speaks UDP and TCP. Names of the cluster never leave it, and a name outside is never made up.

pub mod answer;
pub mod cache;
pub mod forward;
pub mod records;
pub mod serve;
pub mod watch;
pub mod zone;
