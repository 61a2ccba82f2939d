//! The identity of a caller, and the names that Kubernetes gives to well-known users and groups.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The user that requests without credentials run as.
pub const ANONYMOUS: &str = "system:anonymous";
/// The user that the API server itself runs as.
pub const API_SERVER: &str = "system:apiserver";
/// The group of every authenticated user.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// The group of anonymous requests.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that passes every authorization check.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The prefix of a kubelet's user name.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The prefix of a service account's user name.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of every service account.
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The extra key that names the credential: `X509SHA256=<hash>` or `JTI=<uuid>`.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The extra key with the name of the pod that a token is bound to.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// The extra key with the uid of the pod that a token is bound to.
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The extra key with the name of the node that a token is bound to.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The extra key with the uid of the node that a token is bound to.
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// A caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user name.
    pub name: String,
    /// The uid, empty where the authenticator has none.
    pub uid: String,
    /// The groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with a name and groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The identity of the API server's own requests.
    pub fn api_server() -> Self {
        Self::new(API_SERVER, &[MASTERS, ALL_AUTHENTICATED])
    }

    /// The identity of a request without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[ALL_UNAUTHENTICATED])
    }

    /// Whether the user belongs to a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The name of the node, if this is a kubelet's identity.
    pub fn node(&self) -> Option<&str> {
        self.name
            .strip_prefix(NODE_USER_PREFIX)
            .filter(|n| !n.is_empty() && self.in_group(NODES))
    }

    /// Namespace and name, if this is a service account's user name.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// The `UserInfo` that TokenReview, SelfSubjectReview and AdmissionReview show.
    pub fn to_value(&self) -> Value {
        let mut info = Map::new();
        info.insert("username".into(), json!(self.name));
        if !self.uid.is_empty() {
            info.insert("uid".into(), json!(self.uid));
        }
        if !self.groups.is_empty() {
            info.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            info.insert("extra".into(), json!(self.extra));
        }
        Value::Object(info)
    }
}

/// The user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a service account, without `system:authenticated`.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        ALL_SERVICE_ACCOUNTS.to_owned(),
        format!("{ALL_SERVICE_ACCOUNTS}:{namespace}"),
    ]
}

/// Splits a service account's user name into namespace and name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_account_names_split_only_when_whole() {
        assert_eq!(
            split_service_account("system:serviceaccount:ns:sa"),
            Some(("ns", "sa"))
        );
        for bad in [
            "system:serviceaccount:ns",
            "system:serviceaccount::sa",
            "system:serviceaccount:a:b:c",
            "ns:sa",
        ] {
            assert_eq!(split_service_account(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_node_needs_both_the_name_and_the_group() {
        assert_eq!(User::new("system:node:a", &[NODES]).node(), Some("a"));
        assert_eq!(User::new("system:node:a", &[]).node(), None);
        assert_eq!(User::new("system:node:", &[NODES]).node(), None);
    }
}
