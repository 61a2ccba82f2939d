//! Acting as somebody else: the `Impersonate-*` headers, and the right that each of them needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use keelson_api::status::{Qualified, Status};

use crate::attributes::{Attributes, Authorizer};
use crate::authenticate::front_proxy::percent_decode;
use crate::user::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, User, service_account_groups,
    split_service_account,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that the headers ask for, if they ask for any and the caller may act so; 403 if not.
pub fn resolve(
    authorizer: &dyn Authorizer,
    caller: &Arc<User>,
    headers: &HeaderMap,
) -> Result<Option<Arc<User>>, Status> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let (groups, uid) = (all(GROUP), all(UID).into_iter().next().unwrap_or_default());
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA_PREFIX), value.to_str())
        {
            extra
                .entry(percent_decode(key))
                .or_default()
                .push(value.to_owned());
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request(
            "requested impersonation of groups, uid or extra without impersonating a user name",
        ));
    }
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        permit(
            authorizer,
            caller,
            group,
            resource,
            subresource,
            namespace,
            name,
        )
    };
    let account = split_service_account(&name);
    match account {
        Some((namespace, account)) => ask("", "serviceaccounts", "", namespace, account)?,
        None => ask("", "users", "", "", &name)?,
    }
    for group in &groups {
        ask("", "groups", "", "", group)?;
    }
    for (key, values) in &extra {
        for value in values {
            ask(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    if !uid.is_empty() {
        ask(AUTHENTICATION, "uids", "", "", &uid)?;
    }
    let mut groups = groups;
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = service_account_groups(namespace);
    }
    let own = if name == ANONYMOUS {
        ALL_UNAUTHENTICATED
    } else {
        ALL_AUTHENTICATED
    };
    if !groups
        .iter()
        .any(|g| g == ALL_AUTHENTICATED || g == ALL_UNAUTHENTICATED)
    {
        groups.push(own.to_owned());
    }
    Ok(Some(Arc::new(User {
        name,
        uid,
        groups,
        extra,
    })))
}

/// Removes the headers once they took effect.
pub fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers
        .keys()
        .filter(|k| {
            matches!(k.as_str(), USER | GROUP | UID) || k.as_str().starts_with(EXTRA_PREFIX)
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn permit(
    authorizer: &dyn Authorizer,
    caller: &Arc<User>,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let attributes = Attributes {
        user: caller.clone(),
        verb: "impersonate".into(),
        api_group: group.into(),
        api_version: if group.is_empty() {
            String::new()
        } else {
            "v1".into()
        },
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        resource_request: true,
        ..Attributes::default()
    };
    let answer = authorizer.authorize(&attributes);
    if answer.allowed() {
        return Ok(());
    }
    Err(Status::forbidden(
        Qualified::new(group, resource),
        name,
        attributes.forbidden_sentence(&answer.reason),
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::rbac::Index;

    fn index(rules: serde_json::Value) -> Index {
        let index = Index::new();
        index.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "r"}, "rules": rules}),
        );
        index.upsert(
            "clusterrolebindings",
            &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "User", "name": "me"}]}),
        );
        index
    }

    #[test]
    fn every_header_needs_its_right() {
        let me = Arc::new(User::new("me", &[]));
        let mut headers = HeaderMap::new();
        assert_eq!(resolve(&index(json!([])), &me, &headers), Ok(None));
        headers.insert("Impersonate-User", HeaderValue::from_static("jane"));
        let users =
            index(json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]));
        let jane = resolve(&users, &me, &headers).unwrap().unwrap();
        assert_eq!(
            (jane.name.as_str(), jane.groups.as_slice()),
            ("jane", &[ALL_AUTHENTICATED.to_owned()][..])
        );
        headers.insert("Impersonate-Group", HeaderValue::from_static("admins"));
        let refused = resolve(&users, &me, &headers).unwrap_err();
        assert_eq!(
            refused.message,
            r#"groups "admins" is forbidden: User "me" cannot impersonate resource "groups" in API group "" at the cluster scope"#
        );
        headers.remove("Impersonate-User");
        assert_eq!(resolve(&users, &me, &headers).unwrap_err().code, 400);
        strip(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn service_accounts_come_with_their_groups() {
        let me = Arc::new(User::new("me", &[]));
        let mut headers = HeaderMap::new();
        headers.insert(
            "Impersonate-User",
            HeaderValue::from_static("system:serviceaccount:ns:sa"),
        );
        let accounts = index(
            json!([{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}]),
        );
        let account = resolve(&accounts, &me, &headers).unwrap().unwrap();
        assert_eq!(
            account.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated"
            ]
        );
    }
}
