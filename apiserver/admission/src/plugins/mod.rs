//! One file a plugin. Their order is in `chain::ALL`.

pub mod always_pull_images;
pub mod certificate_approval;
pub mod certificate_signing;
pub mod certificate_subject_restriction;
pub mod default_ingress_class;
pub mod default_storage_class;
pub mod default_toleration_seconds;
pub mod limit_ranger;
pub mod mutating_admission_policy;
pub mod mutating_admission_webhook;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod owner_references;
pub mod persistent_volume_claim_resize;
pub mod pod_security;
pub mod pod_topology_labels;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_object_in_use_protection;
pub mod taint_nodes_by_condition;
pub mod validating_admission_policy;
pub mod validating_admission_webhook;
