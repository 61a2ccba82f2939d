//! What a pod's resource claims are called, which are missing, and who uses a claim. No I/O.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_runtime::owners;
use kube::ResourceExt;

use crate::pod;

/// Which of a pod's claims a claim was made for.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim while it is allocated.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How many may use a claim.
const MOST_CONSUMERS: usize = 256;
/// What is left of a name for what is generated: a hyphen and five characters go after it.
const MAX_BASE: usize = 57;

/// What is known of the claim behind an entry of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// It has this name, and is the pod's own or not.
    Known {
        /// The name.
        name: String,
        /// Whether it was made for the pod, so that it must be owned by it.
        own: bool,
    },
    /// It was found not to be needed.
    Unneeded,
    /// It is still to be made.
    Missing,
    /// The entry says nothing that is understood.
    Unsupported,
}

/// The claim behind an entry of a pod.
pub fn named(pod: &Pod, entry: &PodResourceClaim) -> Named {
    if let Some(name) = &entry.resource_claim_name {
        return Named::Known {
            name: name.clone(),
            own: false,
        };
    }
    if entry.resource_claim_template_name.is_none() {
        return Named::Unsupported;
    }
    let status = pod
        .status
        .iter()
        .flat_map(|status| status.resource_claim_statuses.iter().flatten())
        .find(|status| status.name == entry.name);
    match status.map(|status| status.resource_claim_name.clone()) {
        None => Named::Missing,
        Some(None) => Named::Unneeded,
        Some(Some(name)) => Named::Known { name, own: true },
    }
}

/// The pod's entries.
pub fn entries(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.resource_claims.as_deref())
        .unwrap_or_default()
}

/// The names of all claims that a pod uses: by its entries, and the one that the scheduler made for its extended resources.
pub fn names(pod: &Pod) -> Vec<String> {
    let extended = pod
        .status
        .as_ref()
        .and_then(|status| status.extended_resource_claim_status.as_ref())
        .map(|status| status.resource_claim_name.clone());
    entries(pod)
        .iter()
        .filter_map(|entry| match named(pod, entry) {
            Named::Known { name, .. } => Some(name),
            _ => None,
        })
        .chain(extended)
        .collect()
}

/// Whether a pod won't run (any more).
pub fn is_done(pod: &Pod) -> bool {
    pod::is_terminal(pod) || (pod::is_deleting(pod) && pod::node(pod).is_empty())
}

/// Why a claim that should be the pod's own isn't.
pub fn not_for_pod(pod: &Pod, claim: &ResourceClaim) -> Option<String> {
    let own = claim.metadata.namespace == pod.metadata.namespace
        && owners::is_controlled_by(&claim.metadata, pod::uid(pod));
    (!own).then(|| {
        format!(
            "ResourceClaim {}/{} was not created for pod {}/{} (pod is not owner)",
            claim.namespace().unwrap_or_default(),
            claim.name_any(),
            pod.namespace().unwrap_or_default(),
            pod.name_any()
        )
    })
}

/// Whether a claim that was made for a pod's entry is that.
pub fn is_for_entry(claim: &ResourceClaim, entry: &PodResourceClaim) -> bool {
    claim.annotations().get(POD_CLAIM) == Some(&entry.name)
}

/// Those who use a claim.
pub fn consumers(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim
        .status
        .as_ref()
        .and_then(|status| status.reserved_for.as_deref())
        .unwrap_or_default()
}

/// Whether the claim is there for a pod that has a node, which nobody has noted yet.
pub fn lacks_consumer(claim: &ResourceClaim, pod: &Pod) -> bool {
    let allocated = claim
        .status
        .as_ref()
        .is_some_and(|status| status.allocation.is_some());
    let consumers = consumers(claim);
    allocated
        && consumers.len() < MOST_CONSUMERS
        && !consumers
            .iter()
            .any(|consumer| consumer.uid == pod::uid(pod))
}

/// The pod as one who uses a claim.
pub fn consumer(pod: &Pod) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        name: pod.name_any(),
        resource: "pods".to_owned(),
        uid: pod::uid(pod).to_owned(),
    }
}

/// Whether a consumer is a pod; others are none of our business.
pub fn is_pod(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.api_group.as_deref().unwrap_or_default().is_empty() && consumer.resource == "pods"
}

/// The beginning of a claim's name: both names, cut in proportion if together they are too long.
fn generate_name(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let cut = |text: &str, of: usize| text[..text.len() * MAX_BASE / of].to_owned();
    let mut name = format!("{}-", cut(pod, whole.len()));
    name.push_str(&cut(entry, whole.len()));
    name
}

/// The claim of a pod's entry.
pub fn from_template(
    pod: &Pod,
    entry: &PodResourceClaim,
    template: &ResourceClaimTemplate,
) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.name.clone());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(&pod.name_any(), &entry.name)),
            namespace: pod.metadata.namespace.clone(),
            annotations: Some(annotations),
            labels: meta.labels,
            owner_references: Some(vec![OwnerReference {
                block_owner_deletion: None,
                ..owners::controller_ref(pod)
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// The name and UID of the pod that a claim was made for.
pub fn owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    owners::controller_of(&claim.metadata)
        .filter(|owner| owner.kind == "Pod" && owner.api_version == "v1")
        .map(|owner| (owner.name.as_str(), owner.uid.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(statuses: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [],
            "resourceClaims": [{"name": "shared", "resourceClaimName": "gpu"}, {"name": "own", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": statuses}}))
        .unwrap()
    }

    #[test]
    fn entries_lead_to_claims() {
        let new = pod(Value::Null);
        assert_eq!(names(&new), ["gpu"]);
        assert_eq!(named(&new, &entries(&new)[1]), Named::Missing);
        let made = pod(json!([{"name": "own", "resourceClaimName": "p-own-x"}]));
        assert_eq!(names(&made), ["gpu", "p-own-x"]);
        let unneeded = pod(json!([{"name": "own"}]));
        assert_eq!(named(&unneeded, &entries(&unneeded)[1]), Named::Unneeded);
    }

    #[test]
    fn claims_are_made_from_templates_and_belong_to_the_pod() {
        let pod = pod(Value::Null);
        let template: ResourceClaimTemplate =
            serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"devices": {}}}}))
            .unwrap();
        let mut claim = from_template(&pod, &entries(&pod)[1], &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-own-"));
        assert_eq!(claim.annotations()[POD_CLAIM], "own");
        assert_eq!(claim.labels()["a"], "b");
        assert_eq!(owner(&claim), Some(("p", "u")));
        assert!(not_for_pod(&pod, &claim).is_none());
        assert!(!lacks_consumer(&claim, &pod), "not allocated");
        claim.status = serde_json::from_value(json!({"allocation": {}})).unwrap();
        assert!(lacks_consumer(&claim, &pod));
        claim.status.as_mut().unwrap().reserved_for = Some(vec![consumer(&pod)]);
        assert!(!lacks_consumer(&claim, &pod));
        claim.metadata.owner_references = None;
        claim.metadata.name = Some("c".into());
        assert_eq!(
            not_for_pod(&pod, &claim).as_deref(),
            Some("ResourceClaim ns/c was not created for pod ns/p (pod is not owner)")
        );
    }

    #[test]
    fn long_names_are_cut_in_proportion() {
        let name = generate_name(&"p".repeat(100), &"e".repeat(50));
        assert!(name.len() <= MAX_BASE);
        assert!(name.contains("p-e"));
    }
}
