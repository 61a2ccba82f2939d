//! NodeRestriction: a kubelet writes its own node, its own lease and the pods bound to it, and nothing into them that would
//! widen its rights or draw workloads to it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keelson_auth::{Attributes, Lookup, Qualified, Status};
use keelson_registry::access::{Access, remove, same};
use serde_json::Value;

use crate::chain::{Environment, Plugin};
use crate::pod;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "NodeRestriction";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels under kubernetes.io that a kubelet may set on its node.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_NAMESPACE: &str = "node-restriction.kubernetes.io";

/// The plugin.
#[derive(Debug, Default)]
pub struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.user.in_group(keelson_auth::user::NODES)
            && request
                .user
                .name
                .starts_with(keelson_auth::user::NODE_USER_PREFIX)
            && request.operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        check(request, environment).await
    }
}

async fn check(request: &Request, environment: &Environment) -> Result<(), Status> {
    let Some(node) = request.user.node().map(str::to_owned) else {
        return Err(request.forbidden(format!(
            "could not determine node from user {:?}",
            request.user.name
        )));
    };
    let node = node.as_str();
    let subresource = request.subresource.as_str();
    let verdict = match (
        request.resource.group.as_str(),
        request.resource.resource.as_str(),
    ) {
        ("", "pods") => return pod(node, request, environment).await,
        ("", "serviceaccounts")
            if request.operation == Operation::Create && subresource == "token" =>
        {
            return token(node, request, environment).await;
        }
        ("", "nodes") => own_node(node, request),
        ("", "persistentvolumeclaims") => claim(node, request),
        ("coordination.k8s.io", "leases") => lease(node, request),
        ("storage.k8s.io", "csinodes") => same_name(
            node,
            request,
            "can only access CSINode with the same name as the requesting node",
        ),
        ("resource.k8s.io", "resourceslices") => resource_slice(node, request),
        ("certificates.k8s.io", "certificatesigningrequests") => signing_request(node, request),
        ("certificates.k8s.io", "podcertificaterequests") => {
            Err("PodCertificateRequest feature gate is disabled".to_owned())
        }
        _ => Ok(()),
    };
    verdict.map_err(|why| request.forbidden(why))
}

async fn pod(node: &str, request: &Request, environment: &Environment) -> Result<(), Status> {
    let refuse = |why: String| Err(request.forbidden(why));
    match (request.subresource.as_str(), request.operation) {
        ("", Operation::Create) => create_mirror(node, request, environment.lookup.as_ref()).await,
        ("", Operation::Delete) => {
            if node_of_pod(request, environment.lookup.as_ref(), &request.name).await? == node {
                return Ok(());
            }
            refuse(format!(
                "node {node:?} can only delete pods with spec.nodeName set to itself"
            ))
        }
        ("", operation) => refuse(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.as_str()
        )),
        ("status", Operation::Update) => {
            pod_status(node, request).map_err(|why| request.forbidden(why))
        }
        ("eviction", Operation::Create) => {
            let own = request.text("/metadata/name");
            let name = if request.name.is_empty() {
                own
            } else {
                &request.name
            };
            if name.is_empty() {
                return refuse("could not determine pod from request data".into());
            }
            if node_of_pod(request, environment.lookup.as_ref(), name).await? == node {
                return Ok(());
            }
            refuse(format!(
                "node {node} can only evict pods with spec.nodeName set to itself"
            ))
        }
        ("status", operation) => refuse(format!("unexpected operation {:?}", operation.as_str())),
        ("eviction", operation) => refuse(format!("unexpected operation {}", operation.as_str())),
        (other, _) => refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    }
}

async fn node_of_pod(request: &Request, lookup: &dyn Lookup, name: &str) -> Result<String, Status> {
    let found = match lookup.get("pods", &request.namespace, name) {
        Some(pod) => Some(pod),
        None => lookup.live("pods", &request.namespace, name).await?,
    };
    let pod = found.ok_or_else(|| Status::not_found(Qualified::new("", "pods"), name))?;
    Ok(pod.text("spec.nodeName").to_owned())
}

async fn create_mirror(node: &str, request: &Request, lookup: &dyn Lookup) -> Result<(), Status> {
    let Some(pod) = request.object.as_ref() else {
        return Ok(());
    };
    let owner = mirror_owner(node, pod).map_err(|why| request.forbidden(why))?;
    let found = match lookup.get("nodes", "", node) {
        Some(found) => Some(found),
        None => lookup.live("nodes", "", node).await?,
    };
    let found = found.ok_or_else(|| Status::not_found(Qualified::new("", "nodes"), node))?;
    let (expected, got) = (owner.text("uid"), found.text("metadata.uid"));
    if expected != got {
        return Err(request.forbidden(format!(
            "node {node} UID mismatch: expected {expected} got {got}"
        )));
    }
    match pod::references(pod) {
        Some(what) => Err(request.forbidden(format!(
            "node {node:?} can not create pods that reference {what}"
        ))),
        None => Ok(()),
    }
}

/// The owner of a mirror pod that the node may create.
fn mirror_owner<'a>(node: &str, pod: &'a Value) -> Result<&'a Value, String> {
    if !pod::is_mirror(pod) {
        return Err(format!(
            "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
            pod::MIRROR
        ));
    }
    if pod.text("spec.nodeName") != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let only = |what: &str| Err(format!("node {node:?} can only create pods with {what}"));
    let owner = match pod.items("metadata.ownerReferences") {
        [] => return only("an owner reference set to itself"),
        [one] => one,
        _ => return only("a single owner reference set to itself"),
    };
    if owner.text("apiVersion") != "v1"
        || owner.text("kind") != "Node"
        || owner.text("name") != node
    {
        return only("an owner reference set to itself");
    }
    if !owner.flag("controller") {
        return only("a controller owner reference set to itself");
    }
    if owner.flag("blockOwnerDeletion") {
        return Err(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    Ok(owner)
}

fn pod_status(node: &str, request: &Request) -> Result<(), String> {
    let (Some(old), Some(new)) = (request.old_object.as_ref(), request.object.as_ref()) else {
        return Ok(());
    };
    if old.text("spec.nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let unchanged = |path: &str| same(old.part(path), new.part(path));
    if !unchanged("metadata.labels") {
        return Err(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    if !unchanged("status.resourceClaimStatuses") {
        return Err(format!(
            "node {node:?} cannot update resource claim statues"
        ));
    }
    if !unchanged("status.extendedResourceClaimStatus") {
        return Err(format!(
            "node {node:?} cannot update extended resource claim status"
        ));
    }
    Ok(())
}

fn own_node(node: &str, request: &Request) -> Result<(), String> {
    let name = if request.name.is_empty() {
        request.text("/metadata/name")
    } else {
        &request.name
    };
    if name != node {
        return Err(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ));
    }
    let Some(new) = request.object.as_ref() else {
        return Ok(());
    };
    match (request.operation, request.old_object.as_ref()) {
        (Operation::Create, _) => {
            if new.has("spec.configSource") {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            match forbidden_labels(new, &Value::Null).as_str() {
                "" => Ok(()),
                labels => Err(format!(
                    "node {node:?} is not allowed to set the following labels: {labels}"
                )),
            }
        }
        (Operation::Update, Some(old)) => {
            let changed = |path: &str| !same(old.part(path), new.part(path));
            if new.has("spec.configSource") && changed("spec.configSource") {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if changed("spec.taints") {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if changed("metadata.ownerReferences") {
                return Err(format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                ));
            }
            match forbidden_labels(new, old).as_str() {
                "" => Ok(()),
                labels => Err(format!("is not allowed to modify labels: {labels}")),
            }
        }
        _ => Ok(()),
    }
}

/// The labels that differ and that are not a kubelet's to change, in order.
fn forbidden_labels(new: &Value, old: &Value) -> String {
    let (new, old) = (new.part("metadata.labels"), old.part("metadata.labels"));
    let keys: BTreeSet<&str> = new.entries_here().chain(old.entries_here()).collect();
    let forbidden: Vec<&str> = keys
        .into_iter()
        .filter(|k| new.get(*k) != old.get(*k) && !may_set_label(k))
        .collect();
    forbidden.join(", ")
}

/// The keys of a map itself.
trait Keys {
    fn entries_here(&self) -> impl Iterator<Item = &str>;
}

impl Keys for Value {
    fn entries_here(&self) -> impl Iterator<Item = &str> {
        self.as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.as_str())
    }
}

fn may_set_label(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else {
        return true;
    };
    let under = |domain: &str| {
        namespace
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if under(RESTRICTED_NAMESPACE) {
        return false;
    }
    !(under("kubernetes.io") || under("k8s.io"))
        || KUBELET_LABELS.contains(&label)
        || KUBELET_LABEL_NAMESPACES.iter().any(|n| under(n))
}

fn claim(node: &str, request: &Request) -> Result<(), String> {
    if request.subresource != "status" {
        return Err("may only update PVC status".into());
    }
    if request.operation != Operation::Update {
        return Err(format!(
            "unexpected operation {:?}",
            request.operation.as_str()
        ));
    }
    let (Some(old), Some(new)) = (request.old_object.as_ref(), request.object.as_ref()) else {
        return Ok(());
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for path in [
            "metadata.resourceVersion",
            "metadata.managedFields",
            "status.capacity",
            "status.conditions",
            "status.allocatedResources",
            "status.allocatedResourceStatuses",
        ] {
            remove(&mut claim, path);
        }
        claim
    };
    if same(&rest(old), &rest(new)) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn same_name(node: &str, request: &Request, sentence: &str) -> Result<(), String> {
    let name = if request.operation == Operation::Create {
        request.text("/metadata/name")
    } else {
        &request.name
    };
    if name == node {
        Ok(())
    } else {
        Err(sentence.into())
    }
}

fn lease(node: &str, request: &Request) -> Result<(), String> {
    if request.namespace != LEASE_NAMESPACE {
        return Err(format!(
            "can only access leases in the {LEASE_NAMESPACE:?} system namespace"
        ));
    }
    same_name(
        node,
        request,
        "can only access node lease with the same name as the requesting node",
    )
}

fn resource_slice(node: &str, request: &Request) -> Result<(), String> {
    let (named, word) = match request.operation {
        Operation::Create => (request.text("/spec/nodeName"), "create"),
        Operation::Delete => (request.old_text("/spec/nodeName"), "delete"),
        _ => return Ok(()),
    };
    if named == node {
        return Ok(());
    }
    Err(format!(
        "can only {word} ResourceSlice with the same NodeName as the requesting node"
    ))
}

fn signing_request(node: &str, request: &Request) -> Result<(), String> {
    let signer = request.text("/spec/signerName");
    if request.operation != Operation::Create
        || !matches!(
            signer,
            "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet"
        )
    {
        return Ok(());
    }
    let subject = crate::certificates::subject(request.text("/spec/request"))
        .map_err(|why| format!("unable to parse csr: {why}"))?;
    if subject.common_name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(format!(
        "can only create a node CSR with CN=system:node:{node}"
    ))
}

/// Tokens are asked for on behalf of pods that run on the node, for audiences that those pods mount.
async fn token(node: &str, request: &Request, environment: &Environment) -> Result<(), Status> {
    let Some(body) = request.object.as_ref() else {
        return Ok(());
    };
    let reference = body.part("spec.boundObjectRef");
    let (name, uid) = (reference.text("name"), reference.text("uid"));
    let refuse = |why: String| Err(request.forbidden(why));
    if reference.text("apiVersion") != "v1" || reference.text("kind") != "Pod" || name.is_empty() {
        return refuse("node requested token not bound to a pod".into());
    }
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid".into());
    }
    let lookup = environment.lookup.as_ref();
    let found = match lookup.get("pods", &request.namespace, name) {
        Some(pod) if pod.text("metadata.uid") == uid => Some(pod),
        _ => lookup.live("pods", &request.namespace, name).await?,
    };
    let pod = found.ok_or_else(|| Status::not_found(Qualified::new("", "pods"), name))?;
    if pod.text("metadata.uid") != uid {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted \
             and then recreated"
        ));
    }
    if pod.text("spec.nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node".into());
    }
    let audience = match body.items("spec.audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return refuse("node may only request 0 or 1 audiences".into()),
    };
    if mounts_audience(&pod, audience, lookup) || may_request(request, environment, audience) {
        return Ok(());
    }
    refuse(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user.name
    ))
}

fn may_request(request: &Request, environment: &Environment, audience: &str) -> bool {
    let attributes = Attributes {
        user: request.user.clone(),
        verb: "request-serviceaccounts-token-audience".into(),
        api_version: "v1".into(),
        resource: audience.into(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        resource_request: true,
        ..Attributes::default()
    };
    environment.authorizer.authorize(&attributes).allowed()
}

/// Whether a volume of the pod carries a token for the audience: projected, or one that its CSI driver asks for.
fn mounts_audience(pod: &Value, audience: &str, lookup: &dyn Lookup) -> bool {
    let namespace = pod.text("metadata.namespace");
    pod.items("spec.volumes").iter().any(|volume| {
        let projected = volume.items("projected.sources").iter().any(|s| {
            s.has("serviceAccountToken") && s.text("serviceAccountToken.audience") == audience
        });
        projected
            || driver(pod, volume, namespace, lookup).is_some_and(|driver| {
                lookup
                    .get("csidrivers.storage.k8s.io", "", &driver)
                    .is_some_and(|driver| {
                        driver
                            .items("spec.tokenRequests")
                            .iter()
                            .any(|t| t.text("audience") == audience)
                    })
            })
    })
}

fn driver(pod: &Value, volume: &Value, namespace: &str, lookup: &dyn Lookup) -> Option<String> {
    if volume.has("csi") {
        return Some(volume.text("csi.driver").to_owned());
    }
    let claim = if volume.has("ephemeral") {
        format!("{}-{}", pod.text("metadata.name"), volume.text("name"))
    } else {
        volume.text("persistentVolumeClaim.claimName").to_owned()
    };
    let claim = lookup.get("persistentvolumeclaims", namespace, &claim)?;
    let volume = lookup.get("persistentvolumes", "", claim.text("spec.volumeName"))?;
    Some(volume.text("spec.csi.driver").to_owned()).filter(|d| !d.is_empty())
}

#[cfg(test)]
mod tests {
    use keelson_auth::User;
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, by, create, delete, update};

    fn kubelet() -> User {
        User::new("system:node:a", &["system:nodes", "system:authenticated"])
    }

    async fn verdict(request: Request, objects: &[(&str, Value)]) -> Result<(), String> {
        let mut request = by(kubelet(), request);
        admit(&NodeRestriction, &mut request, objects)
            .await
            .map_err(|s| s.message.clone())
    }

    fn node(labels: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels}})
    }

    #[tokio::test]
    async fn nodes_label_themselves_within_bounds() {
        assert!(
            verdict(
                create(
                    "",
                    "nodes",
                    node(json!({"kubernetes.io/hostname": "a", "own": "x"}))
                ),
                &[]
            )
            .await
            .is_ok()
        );
        let refused = verdict(
            create(
                "",
                "nodes",
                node(
                    json!({"node-role.kubernetes.io/x": "", "x.node-restriction.kubernetes.io/y": ""}),
                ),
            ),
            &[],
        );
        assert_eq!(
            refused.await.unwrap_err(),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: node-role.kubernetes.io/x, \
             x.node-restriction.kubernetes.io/y"
        );
        let mut tainted = node(json!({}));
        tainted["spec"] = json!({"taints": [{"key": "x"}]});
        let refused = verdict(update("", "nodes", node(json!({})), tainted), &[]).await;
        assert!(
            refused
                .unwrap_err()
                .ends_with("node \"a\" is not allowed to modify taints")
        );
        let refused = verdict(create("", "nodes", json!({"metadata": {"name": "b"}})), &[]).await;
        assert!(
            refused
                .unwrap_err()
                .ends_with("node \"a\" is not allowed to modify node \"b\"")
        );
    }

    fn mirror() -> Value {
        json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "1", "controller": true}]},
            "spec": {"nodeName": "a", "containers": [{"name": "c"}]}})
    }

    #[tokio::test]
    async fn nodes_create_mirror_pods_of_their_own_only() {
        let nodes = [("nodes", json!({"metadata": {"name": "a", "uid": "1"}}))];
        assert_eq!(verdict(create("", "pods", mirror()), &nodes).await, Ok(()));
        for (pointer, value) in [
            ("/metadata/annotations", json!({})),
            ("/spec/nodeName", json!("b")),
            ("/metadata/ownerReferences", json!([])),
            ("/metadata/ownerReferences/0/uid", json!("2")),
            ("/metadata/ownerReferences/0/controller", json!(false)),
            ("/spec/containers/0/name", Value::Null),
        ] {
            let mut pod = mirror();
            if value.is_null() {
                pod["spec"]["serviceAccountName"] = json!("x");
            } else {
                *pod.pointer_mut(pointer).unwrap() = value;
            }
            assert!(
                verdict(create("", "pods", pod), &nodes).await.is_err(),
                "{pointer}"
            );
        }
    }

    #[tokio::test]
    async fn nodes_touch_only_their_own_pods() {
        let mut other = mirror();
        other["spec"]["nodeName"] = json!("b");
        other["metadata"]["namespace"] = json!("ns");
        let pods = [("pods", other.clone())];
        assert!(
            verdict(delete("", "pods", other.clone()), &pods)
                .await
                .is_err()
        );
        let mut request = update("", "pods", other.clone(), other);
        request.subresource = "status".into();
        assert!(verdict(request, &pods).await.is_err());
        let mut request = update("", "pods", mirror(), mirror());
        request.subresource = "status".into();
        assert_eq!(verdict(request, &[]).await, Ok(()));
        assert!(
            verdict(update("", "pods", mirror(), mirror()), &[])
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn tokens_are_for_pods_on_the_node() {
        let pod = json!({"metadata": {"namespace": "ns", "name": "p", "uid": "1"}, "spec": {"nodeName": "a", "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"audience": "vault"}}]}}]}});
        let pods = [("pods", pod)];
        let ask = |uid: &str, audiences: Value| {
            let mut request = create(
                "",
                "serviceaccounts",
                json!({"metadata": {"name": "sa"}, "spec": {"audiences": audiences,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}}),
            );
            request.subresource = "token".into();
            request
        };
        assert_eq!(verdict(ask("1", json!(["vault"])), &pods).await, Ok(()));
        assert_eq!(verdict(ask("1", json!([])), &pods).await, Ok(()));
        assert!(verdict(ask("2", json!([])), &pods).await.is_err());
        assert!(verdict(ask("1", json!(["other"])), &pods).await.is_err());
        assert!(
            verdict(ask("1", json!(["vault", "other"])), &pods)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn leases_carry_the_nodes_name() {
        let lease = |namespace: &str, name: &str| {
            create(
                "coordination.k8s.io",
                "leases",
                json!({"metadata": {"namespace": namespace, "name": name}}),
            )
        };
        assert_eq!(verdict(lease("kube-node-lease", "a"), &[]).await, Ok(()));
        assert!(verdict(lease("kube-node-lease", "b"), &[]).await.is_err());
        assert!(verdict(lease("default", "a"), &[]).await.is_err());
    }
}
