//! Packet filtering shared by the proxy and the kubelet: transactions of nftables text, and connection tracking.
//!
//! What the rules say is decided by the daemons; here is only how they reach the kernel, atomically, and a fake for tests.

pub mod conntrack;
pub mod nft;
