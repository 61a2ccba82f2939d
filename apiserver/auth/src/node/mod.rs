//! The Node authorizer: a kubelet reads what its own pods refer to, and writes what is its own. What a kubelet may put into an
//! object that it may write is the NodeRestriction admission plugin's business.

use crate::attributes::{Answer, Attributes, Authorizer, Rules};
use crate::rbac::{Rule, bootstrap};
use crate::user::User;

mod graph;
mod references;

pub use graph::Graph;
use graph::{Key, Kind};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The authorizer.
pub struct NodeAuthorizer {
    graph: Graph,
    rules: Vec<Rule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeAuthorizer {
    /// An authorizer whose graph is empty.
    pub fn new() -> Self {
        Self {
            graph: Graph::default(),
            rules: bootstrap::cluster_role_rules("system:node"),
        }
    }

    /// The graph that is to be fed with `pods`, `persistentvolumes`, `volumeattachments` and `resourceslices`.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn related(&self, node: &str, kind: Kind, attributes: &Attributes) -> Answer {
        if attributes.name.is_empty() {
            return Answer::no_opinion("No Object name found");
        }
        if self.graph.reaches(
            &Key::new(kind, &attributes.namespace, &attributes.name),
            node,
        ) {
            Answer::allow("")
        } else {
            Answer::no_opinion(format!(
                "no relationship found between node '{node}' and this object"
            ))
        }
    }

    /// Objects that are read one by one, where `list` and `watch` are of a single name.
    fn read_named(&self, node: &str, kind: Kind, attributes: &Attributes) -> Answer {
        if !attributes.is_read_only() {
            return Answer::no_opinion("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return Answer::no_opinion("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return Answer::no_opinion("can only read namespaced object of this type");
        }
        self.related(node, kind, attributes)
    }

    fn get_only(&self, node: &str, kind: Kind, attributes: &Attributes) -> Answer {
        if attributes.verb != "get" {
            return Answer::no_opinion("can only get individual resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return Answer::no_opinion("cannot get subresource");
        }
        self.related(node, kind, attributes)
    }

    fn claim(&self, node: &str, attributes: &Attributes) -> Answer {
        if attributes.subresource != "status" {
            return self.get_only(node, Kind::PersistentVolumeClaim, attributes);
        }
        match attributes.verb.as_str() {
            "update" | "patch" => self.related(node, Kind::PersistentVolumeClaim, attributes),
            _ => Answer::no_opinion("can only get/update/patch this type"),
        }
    }

    fn service_account(&self, node: &str, attributes: &Attributes) -> Answer {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.read_named(node, Kind::ServiceAccount, attributes);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return Answer::no_opinion("can only create tokens for individual service accounts");
        }
        if attributes.subresource != "token" {
            return Answer::no_opinion("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, attributes)
    }

    fn resource_slice(&self, node: &str, attributes: &Attributes) -> Answer {
        if !attributes.subresource.is_empty() {
            return Answer::no_opinion("cannot authorize ResourceSlice subresources");
        }
        match attributes.verb.as_str() {
            "create" => Answer::allow(""),
            "get" | "update" | "patch" | "delete" => {
                self.related(node, Kind::ResourceSlice, attributes)
            }
            "watch" | "list" | "deletecollection" if selects(attributes, "spec.nodeName", node) => {
                Answer::allow("")
            }
            "watch" | "list" | "deletecollection" => Answer::no_opinion(
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Answer::no_opinion(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes) -> Answer {
        match (attributes.subresource.as_str(), attributes.verb.as_str()) {
            ("", "get") => self.get_only(node, Kind::Pod, attributes),
            ("", "list" | "watch") => {
                if selects(attributes, "spec.nodeName", node) {
                    Answer::allow("")
                } else if attributes.name.is_empty() {
                    Answer::no_opinion("can only list/watch pods with spec.nodeName field selector")
                } else {
                    self.related(node, Kind::Pod, attributes)
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Answer::allow("")
            }
            _ => Answer::no_opinion(""),
        }
    }
}

/// Leases and CSINodes carry their node's name; that of a create is known to admission only.
fn own_object(
    node: &str,
    attributes: &Attributes,
    verbs_sentence: &str,
    name_sentence: &str,
) -> Answer {
    match attributes.verb.as_str() {
        "create" => Answer::allow(""),
        "get" | "update" | "patch" | "delete" if attributes.name == node => Answer::allow(""),
        "get" | "update" | "patch" | "delete" => Answer::no_opinion(name_sentence),
        _ => Answer::no_opinion(verbs_sentence),
    }
}

fn lease(node: &str, attributes: &Attributes) -> Answer {
    let verbs = "can only get, create, update, patch, or delete a node lease";
    if !matches!(
        attributes.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return Answer::no_opinion(verbs);
    }
    if attributes.namespace != LEASE_NAMESPACE {
        return Answer::no_opinion(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"
        ));
    }
    own_object(
        node,
        attributes,
        verbs,
        "can only access node lease with the same name as the requesting node",
    )
}

fn csi_node(node: &str, attributes: &Attributes) -> Answer {
    if !attributes.subresource.is_empty() {
        return Answer::no_opinion("cannot authorize CSINode subresources");
    }
    own_object(
        node,
        attributes,
        "can only get, create, update, patch, or delete a CSINode",
        "can only access CSINode with the same name as the requesting node",
    )
}

fn node_object(node: &str, attributes: &Attributes) -> Answer {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Answer::allow(""),
        ("", "get" | "list" | "watch") => match attributes.name.as_str() {
            name if name == node => Answer::allow(""),
            "" => Answer::no_opinion(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            other => Answer::no_opinion(format!(
                "node '{node}' cannot read '{other}', only its own Node object"
            )),
        },
        _ => Answer::no_opinion(""),
    }
}

fn selects(attributes: &Attributes, field: &str, value: &str) -> bool {
    attributes
        .field_requirements
        .iter()
        .any(|(f, v)| f == field && v == value)
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Answer {
        let Some(node) = attributes.user.node() else {
            return if attributes.user.in_group(crate::user::NODES)
                && attributes
                    .user
                    .name
                    .starts_with(crate::user::NODE_USER_PREFIX)
            {
                Answer::no_opinion(format!("unknown node for user {:?}", attributes.user.name))
            } else {
                Answer::no_opinion("")
            };
        };
        if attributes.resource_request {
            match (attributes.api_group.as_str(), attributes.resource.as_str()) {
                ("", "secrets") => return self.read_named(node, Kind::Secret, attributes),
                ("", "configmaps") => return self.read_named(node, Kind::ConfigMap, attributes),
                ("", "persistentvolumeclaims") => return self.claim(node, attributes),
                ("", "persistentvolumes") => {
                    return self.get_only(node, Kind::PersistentVolume, attributes);
                }
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get_only(node, Kind::ResourceClaim, attributes);
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get_only(node, Kind::VolumeAttachment, attributes);
                }
                ("", "serviceaccounts") => return self.service_account(node, attributes),
                ("coordination.k8s.io", "leases") => return lease(node, attributes),
                ("storage.k8s.io", "csinodes") => return csi_node(node, attributes),
                ("resource.k8s.io", "resourceslices") => {
                    return self.resource_slice(node, attributes);
                }
                ("", "nodes") => return node_object(node, attributes),
                ("", "pods") => return self.pod(node, attributes),
                ("certificates.k8s.io", "podcertificaterequests") => return Answer::no_opinion(""),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(attributes)) {
            Answer::allow("")
        } else {
            Answer::no_opinion("")
        }
    }

    fn rules(&self, user: &User, _namespace: &str) -> Rules {
        Rules {
            incomplete: user
                .node()
                .map(|_| "node authorizer does not support user rule resolution".to_owned()),
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::user::NODES;

    fn ask(
        authorizer: &NodeAuthorizer,
        node: &str,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Answer {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        authorizer.authorize(&Attributes {
            user: Arc::new(User::new(format!("system:node:{node}"), &[NODES])),
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        })
    }

    fn pod(node: &str) -> serde_json::Value {
        json!({"metadata": {"namespace": "ns", "name": "p", "uid": "1"}, "spec": {"nodeName": node, "serviceAccountName": "sa",
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "cm"}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]}})
    }

    #[test]
    fn a_node_reads_what_its_pods_refer_to() {
        let authorizer = NodeAuthorizer::new();
        authorizer.graph().upsert("pods", &pod("a"));
        for (resource, name) in [
            ("secrets", "env"),
            ("configmaps", "cm"),
            ("configmaps", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "claim"),
            ("pods", "p"),
        ] {
            assert!(
                ask(&authorizer, "a", "get", "", resource, "ns", name).allowed(),
                "{resource} {name}"
            );
            assert!(
                !ask(&authorizer, "b", "get", "", resource, "ns", name).allowed(),
                "{resource} {name}"
            );
        }
        let refused = ask(&authorizer, "b", "get", "", "secrets", "ns", "env");
        assert_eq!(
            refused.reason,
            "no relationship found between node 'b' and this object"
        );
        assert!(!ask(&authorizer, "a", "list", "", "secrets", "ns", "").allowed());
        assert!(
            ask(
                &authorizer,
                "a",
                "create",
                "",
                "serviceaccounts/token",
                "ns",
                "sa"
            )
            .allowed()
        );
        assert!(
            !ask(
                &authorizer,
                "a",
                "create",
                "",
                "serviceaccounts/token",
                "ns",
                "other"
            )
            .allowed()
        );
    }

    #[test]
    fn rights_go_with_the_pod() {
        let authorizer = NodeAuthorizer::new();
        authorizer.graph().upsert("pods", &pod("a"));
        let mut second = pod("a");
        second["metadata"]["name"] = json!("q");
        authorizer.graph().upsert("pods", &second);
        authorizer.graph().remove("pods", "ns", "p");
        assert!(ask(&authorizer, "a", "get", "", "secrets", "ns", "env").allowed());
        authorizer.graph().remove("pods", "ns", "q");
        assert!(!ask(&authorizer, "a", "get", "", "secrets", "ns", "env").allowed());
        assert!(authorizer.graph().is_empty());
    }

    #[test]
    fn volumes_are_reached_through_claims() {
        let authorizer = NodeAuthorizer::new();
        authorizer.graph().upsert("pods", &pod("a"));
        authorizer.graph().upsert(
            "persistentvolumes",
            &json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "claim"},
                "csi": {"nodePublishSecretRef": {"namespace": "other", "name": "key"}}}}),
        );
        assert!(ask(&authorizer, "a", "get", "", "persistentvolumes", "", "pv").allowed());
        assert!(!ask(&authorizer, "b", "get", "", "persistentvolumes", "", "pv").allowed());
        assert!(ask(&authorizer, "a", "get", "", "secrets", "other", "key").allowed());
        authorizer.graph().remove("persistentvolumes", "", "pv");
        assert!(!ask(&authorizer, "a", "get", "", "secrets", "other", "key").allowed());
    }

    #[test]
    fn a_node_has_its_own_lease_and_node() {
        let authorizer = NodeAuthorizer::new();
        assert!(
            ask(
                &authorizer,
                "a",
                "update",
                "coordination.k8s.io",
                "leases",
                "kube-node-lease",
                "a"
            )
            .allowed()
        );
        assert!(
            !ask(
                &authorizer,
                "a",
                "update",
                "coordination.k8s.io",
                "leases",
                "kube-node-lease",
                "b"
            )
            .allowed()
        );
        assert!(
            !ask(
                &authorizer,
                "a",
                "get",
                "coordination.k8s.io",
                "leases",
                "default",
                "a"
            )
            .allowed()
        );
        assert!(ask(&authorizer, "a", "get", "", "nodes", "", "a").allowed());
        assert_eq!(
            ask(&authorizer, "a", "list", "", "nodes", "", "").reason,
            "node 'a' cannot read all nodes, only its own Node object"
        );
        assert!(ask(&authorizer, "a", "list", "", "services", "", "").allowed());
        assert!(ask(&authorizer, "a", "create", "", "events", "ns", "").allowed());
    }

    #[test]
    fn mirror_pods_open_nothing() {
        let authorizer = NodeAuthorizer::new();
        let mut mirror = pod("a");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        authorizer.graph().upsert("pods", &mirror);
        assert!(ask(&authorizer, "a", "get", "", "pods", "ns", "p").allowed());
        assert!(!ask(&authorizer, "a", "get", "", "secrets", "ns", "env").allowed());
    }
}
