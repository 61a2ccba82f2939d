//! PrioritySort: higher priority first, then who came earlier.

use std::cmp::Ordering;

use crate::framework::{Plugin, Point};
use crate::queue::QueuedPod;

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }

    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering {
        b.info
            .priority
            .cmp(&a.info.priority)
            .then(a.timestamp.cmp(&b.timestamp))
    }
}
