//! Where a Service's traffic can go: EndpointSlices and Endpoints from pods, and slices mirrored from Endpoints made by hand.

mod index;
pub mod legacy;
pub mod mirroring;
mod service;
mod slice_plan;
mod slice_write;
pub mod slices;
mod tracker;
