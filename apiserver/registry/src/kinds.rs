//! The table of every kind the API server knows by itself.
//!
//! Routes, discovery, OpenAPI, RBAC attributes and keys in the store all derive from these rows. What a kind does is left
//! to its strategy, in one file a kind below this module; custom resources are not here.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::columns::Column;
use crate::strategy::Strategy;

/// A group and a version in it.
pub type GroupVersion = (&'static str, &'static str);

/// One kind of object in one version, and the resource it is served as.
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The served version.
    pub version: Cow<'static, str>,
    /// The kind.
    pub kind: Cow<'static, str>,
    /// The kind of its lists, where that isn't the kind with `List` behind it.
    pub list_kind: Option<String>,
    /// The resource: the plural in paths.
    pub plural: Cow<'static, str>,
    /// The singular that clients accept too.
    pub singular: Cow<'static, str>,
    /// Abbreviations that clients accept.
    pub short_names: Vec<Cow<'static, str>>,
    /// Groups of resources that clients can ask for at once, such as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The path below `/registry/` in the store; empty for what is not stored.
    pub prefix: Cow<'static, str>,
    /// The group and version objects are stored in, as `apiVersion` spells it.
    pub stored_as: Cow<'static, str>,
    /// The hash by which clients recognise how objects are stored.
    pub storage_version_hash: Cow<'static, str>,
    /// The subresources.
    pub subresources: &'static [Subresource],
    /// What the kind does.
    pub strategy: Rules,
    verbs: &'static [&'static str],
}

/// A kind's strategy: one of the table's, or one that is made for a custom resource.
#[derive(Clone)]
pub enum Rules {
    /// Of a kind in the table.
    Static(&'static dyn Strategy),
    /// Of a custom resource.
    Shared(Arc<dyn Strategy + Send>),
}

impl std::ops::Deref for Rules {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Rules::Static(rules) => *rules,
            Rules::Shared(rules) => rules.as_ref(),
        }
    }
}

/// A kind, wherever it comes from: the table, or a custom resource's definition.
#[derive(Clone)]
pub enum KindRef {
    /// A row of the table.
    Static(&'static Kind),
    /// A custom resource's.
    Shared(Arc<Kind>),
}

impl std::ops::Deref for KindRef {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        match self {
            KindRef::Static(kind) => kind,
            KindRef::Shared(kind) => kind,
        }
    }
}

/// A subresource of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name, as in the path.
    pub name: &'static str,
    /// The group, version and kind of what it takes and answers; `None` for that of the kind itself.
    pub kind: Option<(GroupVersion, &'static str)>,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const READ: &[&str] = &["get", "list", "watch"];
const CREATE: &[&str] = &["create"];
const GET_LIST: &[&str] = &["get", "list"];
const READ_CHANGE: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const STATUS: Subresource = Subresource {
    name: "status",
    kind: None,
    verbs: READ_CHANGE,
};
const SCALE: Subresource = sub("scale", (AUTOSCALING, "Scale"), READ_CHANGE);

const fn sub(
    name: &'static str,
    kind: (GroupVersion, &'static str),
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource {
        name,
        kind: Some(kind),
        verbs,
    }
}

const CORE: GroupVersion = ("", "v1");
const APIREGISTRATION: GroupVersion = ("apiregistration.k8s.io", "v1");
const APPS: GroupVersion = ("apps", "v1");
const EVENTS: GroupVersion = ("events.k8s.io", "v1");
const AUTHENTICATION: GroupVersion = ("authentication.k8s.io", "v1");
const AUTHORIZATION: GroupVersion = ("authorization.k8s.io", "v1");
const AUTOSCALING: GroupVersion = ("autoscaling", "v1");
const BATCH: GroupVersion = ("batch", "v1");
const CERTIFICATES: GroupVersion = ("certificates.k8s.io", "v1");
const NETWORKING: GroupVersion = ("networking.k8s.io", "v1");
const POLICY: GroupVersion = ("policy", "v1");
const RBAC: GroupVersion = ("rbac.authorization.k8s.io", "v1");
const STORAGE: GroupVersion = ("storage.k8s.io", "v1");
const ADMISSION: GroupVersion = ("admissionregistration.k8s.io", "v1");
const APIEXTENSIONS: GroupVersion = ("apiextensions.k8s.io", "v1");
const SCHEDULING: GroupVersion = ("scheduling.k8s.io", "v1");
const COORDINATION: GroupVersion = ("coordination.k8s.io", "v1");
const NODE: GroupVersion = ("node.k8s.io", "v1");
const DISCOVERY: GroupVersion = ("discovery.k8s.io", "v1");
const RESOURCE: GroupVersion = ("resource.k8s.io", "v1");
const FLOWCONTROL: GroupVersion = ("flowcontrol.apiserver.k8s.io", "v1");
const AUTOSCALING_V2: GroupVersion = ("autoscaling", "v2");

fn namespaced(
    gv: GroupVersion,
    kind: &'static str,
    plural: &'static str,
    prefix: &'static str,
    strategy: &'static dyn Strategy,
) -> Kind {
    Kind {
        namespaced: true,
        ..cluster(gv, kind, plural, prefix, strategy)
    }
}

fn cluster(
    (group, version): GroupVersion,
    kind: &'static str,
    plural: &'static str,
    prefix: &'static str,
    strategy: &'static dyn Strategy,
) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: None,
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: false,
        prefix: prefix.into(),
        stored_as: if group.is_empty() {
            version.into()
        } else {
            format!("{group}/{version}").into()
        },
        storage_version_hash: "".into(),
        subresources: &[],
        strategy: Rules::Static(strategy),
        verbs: ALL_VERBS,
    }
}

impl Kind {
    fn short(self, short_names: &[&'static str]) -> Kind {
        Kind {
            short_names: short_names.iter().map(|s| Cow::Borrowed(*s)).collect(),
            ..self
        }
    }

    fn all(self) -> Kind {
        Kind {
            categories: vec!["all".into()],
            ..self
        }
    }

    fn extension(self) -> Kind {
        Kind {
            categories: vec!["api-extensions".into()],
            ..self
        }
    }

    fn verbs(self, verbs: &'static [&'static str]) -> Kind {
        Kind { verbs, ..self }
    }

    fn hash(self, storage_version_hash: &'static str) -> Kind {
        Kind {
            storage_version_hash: storage_version_hash.into(),
            ..self
        }
    }

    fn stored_as(self, version: &'static str) -> Kind {
        Kind {
            stored_as: version.into(),
            ..self
        }
    }

    fn subresources(self, subresources: &'static [Subresource]) -> Kind {
        Kind {
            subresources,
            ..self
        }
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind of its lists.
    #[must_use]
    pub fn list_kind(&self) -> String {
        match &self.list_kind {
            Some(kind) => kind.clone(),
            None => format!("{}List", self.kind),
        }
    }

    /// Whether its objects are in the store.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Whether it is the core group's Namespace, whose objects are what others lie in.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }

    /// What can be done with it: of what is stored but not writable, only reading is.
    #[must_use]
    pub fn discovery_verbs(&self) -> &'static [&'static str] {
        if self.is_stored() && !self.strategy.writable() {
            READ
        } else {
            self.verbs
        }
    }

    /// The subresource of this name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// What can be done with a subresource: of a kind that is not writable, only reading is.
    #[must_use]
    pub fn subresource_verbs(&self, subresource: &Subresource) -> &'static [&'static str] {
        if self.strategy.writable() || subresource.verbs != READ_CHANGE {
            subresource.verbs
        } else {
            &["get"]
        }
    }

    /// The key of an object in the store, or without a name the prefix of all in the namespace or cluster.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = format!("/registry/{}/", self.prefix);
        if self.namespaced && !namespace.is_empty() {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// The columns of its table.
    #[must_use]
    pub fn columns(&self) -> &'static [Column] {
        self.strategy.columns()
    }

    /// The label of a field that objects can be selected by, or upstream's sentence that they cannot.
    pub fn field_label<'l>(&self, label: &'l str) -> Result<&'l str, String> {
        let own = self.strategy.field_labels();
        match label {
            "metadata.name" => Ok(label),
            "metadata.namespace" if self.namespaced => Ok(label),
            // The old name of the field, which kubelets used.
            "spec.host" if self.plural == "pods" && self.group.is_empty() => Ok("spec.nodeName"),
            _ if own.contains(&label) => Ok(label),
            _ if self
                .strategy
                .custom_field_labels()
                .iter()
                .any(|l| l == label) =>
            {
                Ok(label)
            }
            _ if matches!(self.strategy, Rules::Shared(_)) => {
                Err(format!("field label not supported: {label}"))
            }
            _ if own.is_empty() => {
                let quoted = keelson_api::field::quote(label);
                Err(format!(
                    "{quoted} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                ))
            }
            _ if self.kind == "Job" => Err(format!(
                "field label {} not supported for Job",
                keelson_api::field::quote(label)
            )),
            _ => Err(format!("field label not supported: {label}")),
        }
    }

    /// The value of a field that objects can be selected by.
    #[must_use]
    pub fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        match label {
            "metadata.name" | "metadata.namespace" => crate::strategy::path_field(object, label),
            _ => self.strategy.field(object, label),
        }
    }
}

/// What a definition says of a custom resource in one version.
pub struct Custom {
    /// The API group.
    pub group: String,
    /// The served version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// The resource.
    pub plural: String,
    /// The singular that clients accept too.
    pub singular: String,
    /// Abbreviations that clients accept.
    pub short_names: Vec<String>,
    /// Groups of resources it belongs to.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The group and version that objects are stored in.
    pub stored_as: String,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// The hash by which clients recognise how objects are stored.
    pub storage_version_hash: String,
    /// What it does.
    pub strategy: Arc<dyn Strategy + Send>,
}

/// The kind of a custom resource.
#[must_use]
pub fn custom(of: Custom) -> Kind {
    let words = |list: Vec<String>| list.into_iter().map(Cow::Owned).collect();
    Kind {
        prefix: format!("{}/{}", of.group, of.plural).into(),
        group: of.group.into(),
        version: of.version.into(),
        kind: of.kind.into(),
        list_kind: Some(of.list_kind),
        plural: of.plural.into(),
        singular: of.singular.into(),
        short_names: words(of.short_names),
        categories: words(of.categories),
        namespaced: of.namespaced,
        stored_as: of.stored_as.into(),
        storage_version_hash: of.storage_version_hash.into(),
        subresources: match (of.status, of.scale) {
            (true, true) => &[STATUS, SCALE],
            (true, false) => &[STATUS],
            (false, true) => &[SCALE],
            (false, false) => &[],
        },
        strategy: Rules::Shared(of.strategy),
        verbs: ALL_VERBS,
    }
}

/// The kind that is served as `plural` in a group and version.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    static INDEX: LazyLock<HashMap<(&str, &str, &str), &Kind>> = LazyLock::new(|| {
        ALL.iter()
            .map(|k| ((&*k.group, &*k.version, &*k.plural), k))
            .collect()
    });
    INDEX.get(&(group, version, plural)).copied()
}

/// The kind by its name in a group and version.
#[must_use]
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter()
        .find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// Every kind, in the order of discovery.
pub static ALL: LazyLock<Vec<Kind>> = LazyLock::new(all);

const NAMESPACES: &[Subresource] = &[sub("finalize", (CORE, "Namespace"), &["update"]), STATUS];

const NODES: &[Subresource] = &[sub("proxy", (CORE, "NodeProxyOptions"), PROXY), STATUS];

const PODS: &[Subresource] = &[
    sub("attach", (CORE, "PodAttachOptions"), STREAM),
    sub("binding", (CORE, "Binding"), CREATE),
    sub("ephemeralcontainers", (CORE, "Pod"), READ_CHANGE),
    sub("eviction", (POLICY, "Eviction"), CREATE),
    sub("exec", (CORE, "PodExecOptions"), STREAM),
    sub("log", (CORE, "Pod"), &["get"]),
    sub("portforward", (CORE, "PodPortForwardOptions"), STREAM),
    sub("proxy", (CORE, "PodProxyOptions"), PROXY),
    sub("resize", (CORE, "Pod"), READ_CHANGE),
    STATUS,
];

const SERVICEACCOUNTS: &[Subresource] = &[sub("token", (AUTHENTICATION, "TokenRequest"), CREATE)];

const SERVICES: &[Subresource] = &[sub("proxy", (CORE, "ServiceProxyOptions"), PROXY), STATUS];

const CERTIFICATESIGNINGREQUESTS: &[Subresource] = &[
    sub(
        "approval",
        (CERTIFICATES, "CertificateSigningRequest"),
        READ_CHANGE,
    ),
    STATUS,
];

#[rustfmt::skip]
fn all() -> Vec<Kind> {
    vec![
        namespaced(CORE, "Binding", "bindings", "", &core::binding::Rules).verbs(CREATE),
        cluster(CORE, "ComponentStatus", "componentstatuses", "", &core::component_status::Rules).short(&["cs"]).verbs(GET_LIST),
        namespaced(CORE, "ConfigMap", "configmaps", "configmaps", &core::config_map::Rules).short(&["cm"]).hash("qFsyl6wFWjQ="),
        namespaced(CORE, "Endpoints", "endpoints", "services/endpoints", &core::endpoints::Rules).short(&["ep"]).hash("fWeeMqaN/OA="),
        namespaced(CORE, "Event", "events", "events", &core::event::Rules).short(&["ev"]).hash("r2yiGXH7wu8="),
        namespaced(CORE, "LimitRange", "limitranges", "limitranges", &core::limit_range::Rules).short(&["limits"]).hash("EBKMFVe6cwo="),
        cluster(CORE, "Namespace", "namespaces", "namespaces", &core::namespace::Rules).short(&["ns"]).verbs(NO_COLLECTION).hash("Q3oi5N2YM8M=").subresources(NAMESPACES),
        cluster(CORE, "Node", "nodes", "minions", &core::node::Rules).short(&["no"]).hash("XwShjMxG9Fs=").subresources(NODES),
        namespaced(CORE, "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaims", &core::persistent_volume_claim::Rules).short(&["pvc"]).hash("QWTyNDq0dC4=").subresources(&[STATUS]),
        cluster(CORE, "PersistentVolume", "persistentvolumes", "persistentvolumes", &core::persistent_volume::Rules).short(&["pv"]).hash("HN/zwEC+JgM=").subresources(&[STATUS]),
        namespaced(CORE, "Pod", "pods", "pods", &core::pod::Rules).short(&["po"]).all().hash("xPOwRZ+Yhw8=").subresources(PODS),
        namespaced(CORE, "PodTemplate", "podtemplates", "podtemplates", &core::pod_template::Rules).hash("LIXB2x4IFpk="),
        namespaced(CORE, "ReplicationController", "replicationcontrollers", "controllers", &core::replication_controller::Rules).short(&["rc"]).all().hash("Jond2If31h0=").subresources(&[SCALE, STATUS]),
        namespaced(CORE, "ResourceQuota", "resourcequotas", "resourcequotas", &core::resource_quota::Rules).short(&["quota"]).hash("8uhSgffRX6w=").subresources(&[STATUS]),
        namespaced(CORE, "Secret", "secrets", "secrets", &core::secret::Rules).hash("S6u1pOWzb84="),
        namespaced(CORE, "ServiceAccount", "serviceaccounts", "serviceaccounts", &core::service_account::Rules).short(&["sa"]).hash("pbx9ZvyFpBE=").subresources(SERVICEACCOUNTS),
        namespaced(CORE, "Service", "services", "services/specs", &core::service::Rules).short(&["svc"]).all().hash("0/CO1lhkEBI=").subresources(SERVICES),
        cluster(APIREGISTRATION, "APIService", "apiservices", "apiregistration.k8s.io/apiservices", &apiregistration::Rules).extension().hash("InPBPD7+PqM=").subresources(&[STATUS]),
        namespaced(APPS, "ControllerRevision", "controllerrevisions", "controllerrevisions", &apps::controller_revision::Rules).hash("85nkx63pcBU="),
        namespaced(APPS, "DaemonSet", "daemonsets", "daemonsets", &apps::daemon_set::Rules).short(&["ds"]).all().hash("dd7pWHUlMKQ=").subresources(&[STATUS]),
        namespaced(APPS, "Deployment", "deployments", "deployments", &apps::deployment::Rules).short(&["deploy"]).all().hash("8aSe+NMegvE=").subresources(&[SCALE, STATUS]),
        namespaced(APPS, "ReplicaSet", "replicasets", "replicasets", &apps::replica_set::Rules).short(&["rs"]).all().hash("P1RzHs8/mWQ=").subresources(&[SCALE, STATUS]),
        namespaced(APPS, "StatefulSet", "statefulsets", "statefulsets", &apps::stateful_set::Rules).short(&["sts"]).all().hash("H+vl74LkKdo=").subresources(&[SCALE, STATUS]),
        namespaced(EVENTS, "Event", "events", "events", &events::EventRules).short(&["ev"]).hash("r2yiGXH7wu8=").stored_as("v1"),
        cluster(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", "", &ReadOnly).verbs(CREATE),
        cluster(AUTHENTICATION, "TokenReview", "tokenreviews", "", &ReadOnly).verbs(CREATE),
        namespaced(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", "", &ReadOnly).verbs(CREATE),
        cluster(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", &ReadOnly).verbs(CREATE),
        cluster(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", &ReadOnly).verbs(CREATE),
        cluster(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", "", &ReadOnly).verbs(CREATE),
        namespaced(AUTOSCALING_V2, "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscalers", &autoscaling::horizontal_pod_autoscaler::Rules).short(&["hpa"]).all().hash("qwQve8ut294=").subresources(&[STATUS]),
        namespaced(AUTOSCALING, "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscalers", &autoscaling::v1::Rules).short(&["hpa"]).all().hash("qwQve8ut294=").stored_as("autoscaling/v2").subresources(&[STATUS]),
        namespaced(BATCH, "CronJob", "cronjobs", "cronjobs", &batch::cron_job::Rules).short(&["cj"]).all().hash("sd5LIXh4Fjs=").subresources(&[STATUS]),
        namespaced(BATCH, "Job", "jobs", "jobs", &batch::job::Rules).all().hash("mudhfqk/qZY=").subresources(&[STATUS]),
        cluster(CERTIFICATES, "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequests", &certificates::certificate_signing_request::Rules).short(&["csr"]).hash("95fRKMXA+00=").subresources(CERTIFICATESIGNINGREQUESTS),
        cluster(NETWORKING, "IngressClass", "ingressclasses", "ingressclasses", &networking::ingress_class::Rules).hash("l/iqIbDgFyQ="),
        namespaced(NETWORKING, "Ingress", "ingresses", "ingress", &networking::ingress::Rules).short(&["ing"]).hash("39NQlfNR+bo=").subresources(&[STATUS]),
        cluster(NETWORKING, "IPAddress", "ipaddresses", "ipaddresses", &networking::ip_address::Rules).short(&["ip"]).hash("3f/plJFChNE="),
        namespaced(NETWORKING, "NetworkPolicy", "networkpolicies", "networkpolicies", &networking::network_policy::Rules).short(&["netpol"]).hash("YpfwF18m1G8="),
        cluster(NETWORKING, "ServiceCIDR", "servicecidrs", "servicecidrs", &networking::service_cidr::Rules).hash("gNLvruQhW2g=").subresources(&[STATUS]),
        namespaced(POLICY, "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudgets", &policy::pod_disruption_budget::Rules).short(&["pdb"]).hash("EVWiDmWqyJw=").subresources(&[STATUS]),
        cluster(RBAC, "ClusterRoleBinding", "clusterrolebindings", "clusterrolebindings", &rbac::BindingRules { namespaced: false }).hash("48tpQ8gZHFc="),
        cluster(RBAC, "ClusterRole", "clusterroles", "clusterroles", &rbac::RoleRules { namespaced: false }).hash("bYE5ZWDrJ44="),
        namespaced(RBAC, "RoleBinding", "rolebindings", "rolebindings", &rbac::BindingRules { namespaced: true }).hash("eGsCzGH6b1g="),
        namespaced(RBAC, "Role", "roles", "roles", &rbac::RoleRules { namespaced: true }).hash("7FuwZcIIItM="),
        cluster(STORAGE, "CSIDriver", "csidrivers", "csidrivers", &storage::csi_driver::Rules).hash("hL6j/rwBV5w="),
        cluster(STORAGE, "CSINode", "csinodes", "csinodes", &storage::csi_node::Rules).hash("Pe62DkZtjuo="),
        namespaced(STORAGE, "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacities", &storage::csi_storage_capacity::Rules).hash("xeVl+2Ly1kE="),
        cluster(STORAGE, "StorageClass", "storageclasses", "storageclasses", &storage::storage_class::Rules).short(&["sc"]).hash("K+m6uJwbjGY="),
        cluster(STORAGE, "VolumeAttachment", "volumeattachments", "volumeattachments", &storage::volume_attachment::Rules).hash("tJx/ezt6UDU=").subresources(&[STATUS]),
        cluster(STORAGE, "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclasses", &storage::volume_attributes_class::Rules).short(&["vac"]).hash("tIjydgKBC5w="),
        cluster(ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "mutatingadmissionpolicies", &admissionregistration::mutating_policy::Rules).extension().hash("LYmCf+UMVdg=").stored_as("admissionregistration.k8s.io/v1beta1"),
        cluster(ADMISSION, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybindings", &admissionregistration::policy_binding::MUTATING).extension().hash("90V5FRZZ3Zg=").stored_as("admissionregistration.k8s.io/v1beta1"),
        cluster(ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfigurations", &admissionregistration::webhook_configuration::MUTATING).extension().hash("Sqi0GUgDaX0="),
        cluster(ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "validatingadmissionpolicies", &admissionregistration::validating_policy::Rules).extension().hash("6OxvlMmQ6is=").subresources(&[STATUS]),
        cluster(ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "validatingadmissionpolicybindings", &admissionregistration::policy_binding::VALIDATING).extension().hash("v9715VZqakg="),
        cluster(ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "validatingwebhookconfigurations", &admissionregistration::webhook_configuration::VALIDATING).extension().hash("B0wHjQmsGNk="),
        cluster(APIEXTENSIONS, "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions", &apiextensions::Rules).short(&["crd", "crds"]).extension().hash("jfWCUB31mvA=").stored_as("apiextensions.k8s.io/v1beta1").subresources(&[STATUS]),
        cluster(SCHEDULING, "PriorityClass", "priorityclasses", "priorityclasses", &scheduling::priority_class::Rules).short(&["pc"]).hash("1QwjyaZjj3Y="),
        namespaced(COORDINATION, "Lease", "leases", "leases", &coordination::lease::Rules).hash("gqkMMb/YqFM="),
        cluster(NODE, "RuntimeClass", "runtimeclasses", "runtimeclasses", &node::runtime_class::Rules).hash("WQTu1GL3T2Q="),
        namespaced(DISCOVERY, "EndpointSlice", "endpointslices", "endpointslices", &discovery::endpoint_slice::Rules).hash("qgS0xkrxYAI="),
        cluster(RESOURCE, "DeviceClass", "deviceclasses", "deviceclasses", &resource::device_class::Rules).hash("Yk2PTc1Ybxk="),
        namespaced(RESOURCE, "ResourceClaim", "resourceclaims", "resourceclaims", &resource::resource_claim::Rules).hash("wgAZaHcZxUg=").subresources(&[STATUS]),
        namespaced(RESOURCE, "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplates", &resource::resource_claim_template::Rules).hash("TuzjC49aUfM="),
        cluster(RESOURCE, "ResourceSlice", "resourceslices", "resourceslices", &resource::resource_slice::Rules).hash("KsC072WgaEY="),
        cluster(FLOWCONTROL, "FlowSchema", "flowschemas", "flowschemas", &flowcontrol::flow_schema::Rules).hash("GJVAJZSZBIw=").subresources(&[STATUS]),
        cluster(FLOWCONTROL, "PriorityLevelConfiguration", "prioritylevelconfigurations", "prioritylevelconfigurations", &flowcontrol::priority_level::Rules).hash("Kir5PVfvNeI=").subresources(&[STATUS]),
    ]
}

/// A kind that can be read but not yet written.
struct ReadOnly;

impl Strategy for ReadOnly {
    fn writable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        assert_eq!(ALL.len(), 68);
        assert_eq!(ALL.iter().map(|k| k.subresources.len()).sum::<usize>(), 45);
        let versions: std::collections::BTreeSet<String> =
            ALL.iter().map(Kind::api_version).collect();
        assert_eq!(versions.len(), 22);
    }

    #[test]
    fn keys_are_upstreams() {
        let key = |g, v, p, ns, n| find(g, v, p).unwrap().key(ns, n);
        assert_eq!(key("", "v1", "pods", "a", "b"), "/registry/pods/a/b");
        assert_eq!(key("", "v1", "nodes", "", "n"), "/registry/minions/n");
        assert_eq!(
            key("", "v1", "services", "a", ""),
            "/registry/services/specs/a/"
        );
        assert_eq!(
            key("networking.k8s.io", "v1", "ingresses", "", ""),
            "/registry/ingress/"
        );
        assert_eq!(
            find("events.k8s.io", "v1", "events").unwrap().stored_as,
            "v1"
        );
        assert_eq!(
            find("apps", "v1", "deployments").unwrap().stored_as,
            "apps/v1"
        );
    }

    #[test]
    fn unknown_fields_are_refused_in_upstreams_words() {
        assert_eq!(
            find("", "v1", "configmaps")
                .unwrap()
                .field_label("data.x")
                .unwrap_err(),
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
