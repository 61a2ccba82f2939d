//! The table of controllers, in the order in which they start.

use futures::future::BoxFuture;

use crate::context::{Context, StartError};

/// What a started controller is: a task that ends when the manager stops.
pub type Task = BoxFuture<'static, ()>;

/// One row: a controller, what it reads and what it alone writes.
pub struct Controller {
    /// Its name in `--controllers`, which is upstream's.
    pub name: &'static str,
    /// Its service account in `kube-system`.
    pub account: &'static str,
    /// Whether `*` includes it.
    pub on_by_default: bool,
    /// The resources it watches.
    pub reads: &'static [&'static str],
    /// What it is the only one to write: `resource`, `resource/subresource` or `resource:aspect`.
    pub owns: &'static [&'static str],
    /// Asks for its informers and gives its task back.
    pub start: fn(Context) -> Result<Task, StartError>,
}

/// All controllers.
pub const ALL: &[Controller] = &[
    Controller {
        name: "garbage-collector-controller",
        account: "generic-garbage-collector",
        on_by_default: true,
        reads: &["*"],
        owns: &["*:without-owners"],
        start: crate::garbage::start,
    },
    Controller {
        name: "serviceaccount-controller",
        account: "service-account-controller",
        on_by_default: true,
        reads: &["namespaces", "serviceaccounts"],
        owns: &["serviceaccounts:default"],
        start: crate::service_account::start,
    },
    Controller {
        name: "root-ca-certificate-publisher-controller",
        account: "root-ca-cert-publisher",
        on_by_default: true,
        reads: &["namespaces", "configmaps"],
        owns: &["configmaps:kube-root-ca.crt"],
        start: crate::root_ca::start,
    },
    Controller {
        name: "namespace-controller",
        account: "namespace-controller",
        on_by_default: true,
        reads: &["namespaces", "pods"],
        owns: &["namespaces/status", "namespaces/finalize"],
        start: crate::namespace::start,
    },
    Controller {
        name: "pod-garbage-collector-controller",
        account: "pod-garbage-collector",
        on_by_default: true,
        reads: &["pods", "nodes"],
        owns: &["pods:of-gone-nodes"],
        start: crate::pod_gc::start,
    },
    Controller {
        name: "endpoints-controller",
        account: "endpoint-controller",
        on_by_default: true,
        reads: &["services", "pods", "endpoints"],
        owns: &["endpoints:of-services"],
        start: crate::endpoints::legacy::start,
    },
    Controller {
        name: "endpointslice-controller",
        account: "endpointslice-controller",
        on_by_default: true,
        reads: &["services", "pods", "nodes", "endpointslices"],
        owns: &["endpointslices:of-services"],
        start: crate::endpoints::slices::start,
    },
    Controller {
        name: "endpointslice-mirroring-controller",
        account: "endpointslicemirroring-controller",
        on_by_default: true,
        reads: &["services", "endpoints", "endpointslices"],
        owns: &["endpointslices:of-endpoints"],
        start: crate::endpoints::mirroring::start,
    },
    Controller {
        name: "deployment-controller",
        account: "deployment-controller",
        on_by_default: true,
        reads: &["deployments", "replicasets", "pods"],
        owns: &["deployments/status", "replicasets:of-deployments"],
        start: crate::deployment::start,
    },
    Controller {
        name: "replicaset-controller",
        account: "replicaset-controller",
        on_by_default: true,
        reads: &["replicasets", "pods"],
        owns: &["replicasets/status", "pods:of-replicasets"],
        start: crate::replica::start::<k8s_openapi::api::apps::v1::ReplicaSet>,
    },
    Controller {
        name: "replicationcontroller-controller",
        account: "replication-controller",
        on_by_default: true,
        reads: &["replicationcontrollers", "pods"],
        owns: &[
            "replicationcontrollers/status",
            "pods:of-replicationcontrollers",
        ],
        start: crate::replica::start::<k8s_openapi::api::core::v1::ReplicationController>,
    },
    Controller {
        name: "node-ipam-controller",
        account: "node-controller",
        on_by_default: true,
        reads: &["nodes"],
        owns: &["nodes:podCIDR"],
        start: crate::node::ipam::start,
    },
    Controller {
        name: "node-lifecycle-controller",
        account: "node-controller",
        on_by_default: true,
        reads: &["nodes", "leases", "pods"],
        owns: &["nodes:taints"],
        start: crate::node::lifecycle::start,
    },
    Controller {
        name: "taint-eviction-controller",
        account: "node-controller",
        on_by_default: true,
        reads: &["nodes", "pods"],
        owns: &["pods:of-tainted-nodes"],
        start: crate::node::eviction::start,
    },
    Controller {
        name: "daemonset-controller",
        account: "daemon-set-controller",
        on_by_default: true,
        reads: &["daemonsets", "controllerrevisions", "pods", "nodes"],
        owns: &["daemonsets/status", "pods:of-daemonsets"],
        start: crate::daemonset::start,
    },
    Controller {
        name: "statefulset-controller",
        account: "statefulset-controller",
        on_by_default: true,
        reads: &[
            "statefulsets",
            "controllerrevisions",
            "pods",
            "persistentvolumeclaims",
        ],
        owns: &[
            "statefulsets/status",
            "pods:of-statefulsets",
            "persistentvolumeclaims:of-statefulsets",
        ],
        start: crate::statefulset::start,
    },
    Controller {
        name: "job-controller",
        account: "job-controller",
        on_by_default: true,
        reads: &["jobs", "pods"],
        owns: &["jobs/status", "pods:of-jobs"],
        start: crate::job::start,
    },
    Controller {
        name: "cronjob-controller",
        account: "cronjob-controller",
        on_by_default: true,
        reads: &["cronjobs", "jobs"],
        owns: &["cronjobs/status", "jobs:of-cronjobs"],
        start: crate::cronjob::start,
    },
    Controller {
        name: "ttl-after-finished-controller",
        account: "ttl-after-finished-controller",
        on_by_default: true,
        reads: &["jobs"],
        owns: &["jobs:finished"],
        start: crate::ttl_after_finished::start,
    },
    Controller {
        name: "clusterrole-aggregation-controller",
        account: "clusterrole-aggregation-controller",
        on_by_default: true,
        reads: &["clusterroles"],
        owns: &["clusterroles:aggregated"],
        start: crate::cluster_role_aggregation::start,
    },
    Controller {
        name: "disruption-controller",
        account: "disruption-controller",
        on_by_default: true,
        reads: &[
            "poddisruptionbudgets",
            "pods",
            "deployments",
            "replicasets",
            "statefulsets",
            "replicationcontrollers",
        ],
        owns: &["poddisruptionbudgets/status"],
        start: crate::disruption::start,
    },
    Controller {
        name: "service-cidr-controller",
        account: "service-cidrs-controller",
        on_by_default: true,
        reads: &["servicecidrs", "ipaddresses"],
        owns: &["servicecidrs/status"],
        start: crate::service_cidr::start,
    },
    Controller {
        name: "resourcequota-controller",
        account: "resourcequota-controller",
        on_by_default: true,
        reads: &["*"],
        owns: &["resourcequotas/status"],
        start: crate::resource_quota::start,
    },
    Controller {
        name: "persistentvolume-binder-controller",
        account: "persistent-volume-binder",
        on_by_default: true,
        reads: &[
            "persistentvolumes",
            "persistentvolumeclaims",
            "storageclasses",
            "pods",
        ],
        owns: &[
            "persistentvolumes/status",
            "persistentvolumeclaims/status",
            "persistentvolumeclaims:volumeName",
        ],
        start: crate::volume::binder::start,
    },
    Controller {
        name: "persistentvolumeclaim-protection-controller",
        account: "pvc-protection-controller",
        on_by_default: true,
        reads: &["persistentvolumeclaims", "pods"],
        owns: &["persistentvolumeclaims:pvc-protection"],
        start: crate::volume::claim_protection::start,
    },
    Controller {
        name: "persistentvolume-protection-controller",
        account: "pv-protection-controller",
        on_by_default: true,
        reads: &["persistentvolumes"],
        owns: &["persistentvolumes:pv-protection"],
        start: crate::volume::volume_protection::start,
    },
    Controller {
        name: "persistentvolume-expander-controller",
        account: "expand-controller",
        on_by_default: true,
        reads: &["persistentvolumeclaims", "persistentvolumes"],
        owns: &["persistentvolumeclaims:storage-resizer"],
        start: crate::volume::expander::start,
    },
    Controller {
        name: "ephemeral-volume-controller",
        account: "ephemeral-volume-controller",
        on_by_default: true,
        reads: &["pods", "persistentvolumeclaims"],
        owns: &["persistentvolumeclaims:of-pods"],
        start: crate::volume::ephemeral::start,
    },
    Controller {
        name: "volumeattributesclass-protection-controller",
        account: "volumeattributesclass-protection-controller",
        on_by_default: true,
        reads: &[
            "volumeattributesclasses",
            "persistentvolumes",
            "persistentvolumeclaims",
        ],
        owns: &["volumeattributesclasses:vac-protection"],
        start: crate::volume::attributes_class::start,
    },
    Controller {
        name: "certificatesigningrequest-approving-controller",
        account: "certificate-controller",
        on_by_default: true,
        reads: &["certificatesigningrequests"],
        owns: &["certificatesigningrequests/approval"],
        start: crate::certificates::approving::start,
    },
    Controller {
        name: "certificatesigningrequest-signing-controller",
        account: "certificate-controller",
        on_by_default: true,
        reads: &["certificatesigningrequests"],
        owns: &["certificatesigningrequests/status"],
        start: crate::certificates::signing::start,
    },
    Controller {
        name: "certificatesigningrequest-cleaner-controller",
        account: "certificate-controller",
        on_by_default: true,
        reads: &["certificatesigningrequests"],
        owns: &["certificatesigningrequests:old"],
        start: crate::certificates::cleaner::start,
    },
    Controller {
        name: "serviceaccount-token-controller",
        account: "service-account-controller",
        on_by_default: true,
        reads: &["serviceaccounts", "secrets"],
        owns: &["secrets:of-serviceaccounts"],
        start: crate::token::maker::start,
    },
    Controller {
        name: "legacy-serviceaccount-token-cleaner-controller",
        account: "legacy-service-account-token-cleaner",
        on_by_default: true,
        reads: &["serviceaccounts", "secrets", "pods"],
        owns: &["secrets:unused-tokens"],
        start: crate::token::cleaner::start,
    },
    Controller {
        name: "ttl-controller",
        account: "ttl-controller",
        on_by_default: true,
        reads: &["nodes"],
        owns: &["nodes:ttl"],
        start: crate::ttl::start,
    },
    Controller {
        name: "persistentvolume-attach-detach-controller",
        account: "attachdetach-controller",
        on_by_default: true,
        reads: &[
            "pods",
            "nodes",
            "persistentvolumeclaims",
            "persistentvolumes",
            "csidrivers",
            "volumeattachments",
        ],
        owns: &["volumeattachments", "nodes/status:volumes-attached"],
        start: crate::volume::attach::start,
    },
    Controller {
        name: "resourceclaim-controller",
        account: "resource-claim-controller",
        on_by_default: true,
        reads: &["pods", "resourceclaims", "resourceclaimtemplates"],
        owns: &[
            "resourceclaims:of-pods",
            "pods/status:resource-claim-statuses",
        ],
        start: crate::resource_claim::start,
    },
    Controller {
        name: "horizontal-pod-autoscaler-controller",
        account: "horizontal-pod-autoscaler",
        on_by_default: true,
        reads: &["horizontalpodautoscalers", "pods"],
        owns: &["horizontalpodautoscalers/status", "*/scale"],
        start: crate::autoscaler::start,
    },
    Controller {
        name: "validatingadmissionpolicy-status-controller",
        account: "validatingadmissionpolicy-status-controller",
        on_by_default: true,
        reads: &["validatingadmissionpolicies", "customresourcedefinitions"],
        owns: &["validatingadmissionpolicies/status"],
        start: crate::policy_status::start,
    },
    Controller {
        name: "bootstrap-signer-controller",
        account: "bootstrap-signer",
        on_by_default: false,
        reads: &["secrets:bootstrap", "configmaps:cluster-info"],
        owns: &["configmaps:cluster-info"],
        start: crate::bootstrap::signer::start,
    },
    Controller {
        name: "token-cleaner-controller",
        account: "token-cleaner",
        on_by_default: false,
        reads: &["secrets:bootstrap"],
        owns: &["secrets:bootstrap"],
        start: crate::bootstrap::cleaner::start,
    },
];

/// The names of all controllers.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|controller| controller.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn names_are_unique_and_no_output_has_two_owners() {
        let mut names = HashMap::new();
        let mut owners = HashMap::new();
        for controller in ALL {
            assert!(
                names.insert(controller.name, ()).is_none(),
                "{} twice",
                controller.name
            );
            assert!(
                controller.name.ends_with("-controller"),
                "{}",
                controller.name
            );
            for output in controller.owns {
                if let Some(other) = owners.insert(output, controller.name) {
                    panic!("{output} is owned by {other} and {}", controller.name);
                }
            }
        }
    }
}
