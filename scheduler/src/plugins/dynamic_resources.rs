//! DynamicResources: allocating devices to resource claims is not supported yet, and pods that ask for it are told so.

use async_trait::async_trait;

use crate::framework::{
    CycleState, Plugin, Point, PostFilter, PostFilterInput, PreFilter, Rejection,
};
use crate::model::{PodInfo, Snapshot};

pub struct DynamicResources;

fn has_claims(pod: &PodInfo) -> bool {
    pod.spec()
        .and_then(|spec| spec.resource_claims.as_deref())
        .is_some_and(|claims| !claims.is_empty())
}

#[async_trait]
impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::PostFilter]
    }

    fn pre_filter(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        if has_claims(pod) {
            return Err(Rejection::unresolvable(
                "this scheduler does not allocate resource claims",
            ));
        }
        Ok(PreFilter::Skip)
    }

    /// Upstream frees claims that would let the pod in; a pod without claims has none to free.
    async fn post_filter(&self, _: PostFilterInput<'_>) -> Result<PostFilter, Rejection> {
        Ok(PostFilter {
            message: "no new claims to deallocate".to_owned(),
            ..PostFilter::default()
        })
    }
}
