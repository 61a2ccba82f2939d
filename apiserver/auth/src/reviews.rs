//! The reviews: questions about authentication and authorization that are asked as objects and answered in their status.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::status::{Qualified, Status};
use serde_json::{Map, Value, json};

use crate::attributes::{Attributes, Authorizer, Decision};
use crate::authenticate::TokenAuthenticator;
use crate::user::{ALL_AUTHENTICATED, User};

const GROUP: &str = "authorization.k8s.io";

/// SubjectAccessReview: may some user do something?
pub fn subject_access(authorizer: &dyn Authorizer, review: Value) -> Result<Value, Status> {
    check(&review, subject_errors)?;
    let user = subject(&review["spec"]);
    Ok(answer(authorizer, Arc::new(user), review))
}

/// LocalSubjectAccessReview: the same within one namespace.
pub fn local_subject_access(
    authorizer: &dyn Authorizer,
    namespace: &str,
    review: Value,
) -> Result<Value, Status> {
    check(&review, |spec, errors| {
        subject_errors(spec, errors);
        let path = Path::new("spec");
        let attributes = path.child("resourceAttributes");
        if present(&spec["nonResourceAttributes"]) {
            let path = path.child("nonResourceAttributes");
            errors.push(Error::invalid(
                &path,
                &spec["nonResourceAttributes"],
                "disallowed on this kind of request",
            ));
        }
        let given = text(spec, "/resourceAttributes/namespace");
        if present(&spec["resourceAttributes"]) && given != namespace {
            errors.push(Error::invalid(
                &attributes.child("namespace"),
                given,
                "must match metadata.namespace",
            ));
        }
    })?;
    let user = subject(&review["spec"]);
    Ok(answer(authorizer, Arc::new(user), review))
}

/// SelfSubjectAccessReview: may I do something?
pub fn self_subject_access(
    authorizer: &dyn Authorizer,
    user: &Arc<User>,
    review: Value,
) -> Result<Value, Status> {
    check(&review, |_, _| {})?;
    Ok(answer(authorizer, user.clone(), review))
}

/// SelfSubjectRulesReview: what may I do in a namespace?
pub fn self_subject_rules(
    authorizer: &dyn Authorizer,
    user: &User,
    mut review: Value,
) -> Result<Value, Status> {
    let namespace = text(&review, "/spec/namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = authorizer.rules(user, &namespace);
    let resource: Vec<Value> = rules
        .resource
        .into_iter()
        .map(|r| {
            let mut rule = Map::new();
            rule.insert("verbs".into(), json!(r.verbs));
            for (key, list) in [
                ("apiGroups", r.api_groups),
                ("resources", r.resources),
                ("resourceNames", r.resource_names),
            ] {
                if !list.is_empty() {
                    rule.insert(key.into(), json!(list));
                }
            }
            Value::Object(rule)
        })
        .collect();
    let non_resource: Vec<Value> = rules
        .non_resource
        .into_iter()
        .map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.paths}))
        .collect();
    let mut status = json!({
        "resourceRules": resource, "nonResourceRules": non_resource, "incomplete": rules.incomplete.is_some(),
    });
    if let Some(why) = rules.incomplete {
        status["evaluationError"] = json!(why);
    }
    // Upstream's answer does not repeat the question.
    review["spec"] = json!({});
    review["status"] = status;
    stamp(&mut review, GROUP, "SelfSubjectRulesReview");
    Ok(review)
}

/// SelfSubjectReview: who am I?
pub fn self_subject(user: &User, mut review: Value, now: &str) -> Result<Value, Status> {
    review["status"] = json!({"userInfo": user.to_value()});
    review["metadata"]["creationTimestamp"] = json!(now);
    stamp(&mut review, "authentication.k8s.io", "SelfSubjectReview");
    Ok(review)
}

/// TokenReview: whose token is this?
pub async fn token(
    authenticators: &[Arc<dyn TokenAuthenticator>],
    own_audiences: &[String],
    mut review: Value,
) -> Result<Value, Status> {
    let namespace = text(&review, "/metadata/namespace");
    if !namespace.is_empty() {
        return Err(Status::bad_request(format!(
            "namespace is not allowed on this type: {namespace}"
        )));
    }
    let token = text(&review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let asked = strings(&review["spec"]["audiences"]);
    let audiences = if asked.is_empty() {
        own_audiences.to_vec()
    } else {
        asked
    };
    let mut errors = vec!["invalid bearer token".to_owned()];
    let mut status = json!({});
    for authenticator in authenticators {
        match authenticator.authenticate(&token, &audiences).await {
            Ok(Some(found)) => {
                let mut user = (*found.user).clone();
                if !user.in_group(ALL_AUTHENTICATED) {
                    user.groups.push(ALL_AUTHENTICATED.to_owned());
                }
                status = json!({"authenticated": true, "user": user.to_value(), "audiences": found.audiences});
                errors.clear();
                break;
            }
            Ok(None) => {}
            Err(error) => errors.push(error.0),
        }
    }
    match errors.as_slice() {
        [] => {}
        [one] => status = json!({"user": {}, "error": one}),
        many => status = json!({"user": {}, "error": format!("[{}]", many.join(", "))}),
    }
    review["status"] = status;
    stamp(&mut review, "authentication.k8s.io", "TokenReview");
    Ok(review)
}

/// Checks a review. Upstream names no kind in these errors.
fn check(review: &Value, more: impl FnOnce(&Value, &mut ErrorList)) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let (spec, path) = (&review["spec"], Path::new("spec"));
    match (
        present(&spec["resourceAttributes"]),
        present(&spec["nonResourceAttributes"]),
    ) {
        (true, true) => errors.push(Error::invalid(
            &path.child("nonResourceAttributes"),
            // As the type's fields are named in Go, which is what upstream shows.
            serde_json::json!({
                "Path": text(spec, "/nonResourceAttributes/path"),
                "Verb": text(spec, "/nonResourceAttributes/verb"),
            }),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(Error::invalid(
            &path.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    more(spec, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(Qualified::new(GROUP, ""), "", &errors))
    }
}

fn subject_errors(spec: &Value, errors: &mut ErrorList) {
    if text(spec, "/user").is_empty() && strings(&spec["groups"]).is_empty() {
        let path = Path::new("spec");
        errors.push(Error::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
}

fn subject(spec: &Value) -> User {
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .map(|map| map.iter().map(|(k, v)| (k.clone(), strings(v))).collect())
        .unwrap_or_default();
    User {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: strings(&spec["groups"]),
        extra,
    }
}

fn attributes(user: Arc<User>, spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    if !present(resource) {
        return Attributes {
            user,
            verb: text(spec, "/nonResourceAttributes/verb").to_owned(),
            path: text(spec, "/nonResourceAttributes/path").to_owned(),
            ..Attributes::default()
        };
    }
    let get = |key: &str| {
        resource
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let requirements = resource
        .pointer("/fieldSelector/requirements")
        .and_then(Value::as_array);
    let field_requirements = requirements
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter_map(|r| match strings(&r["values"]).as_slice() {
            [one] if text(r, "/operator") == "In" => {
                Some((text(r, "/key").to_owned(), one.clone()))
            }
            _ => None,
        })
        .collect();
    Attributes {
        user,
        verb: get("verb"),
        api_group: get("group"),
        api_version: get("version"),
        resource: get("resource"),
        subresource: get("subresource"),
        namespace: get("namespace"),
        name: get("name"),
        resource_request: true,
        field_requirements,
        ..Attributes::default()
    }
}

fn answer(authorizer: &dyn Authorizer, user: Arc<User>, mut review: Value) -> Value {
    let verdict = authorizer.authorize(&attributes(user, &review["spec"]));
    let mut status = json!({"allowed": verdict.decision == Decision::Allow});
    if verdict.decision == Decision::Deny {
        status["denied"] = json!(true);
    }
    if !verdict.reason.is_empty() {
        status["reason"] = json!(verdict.reason);
    }
    review["status"] = status;
    review
}

fn stamp(review: &mut Value, group: &str, kind: &str) {
    review["apiVersion"] = json!(format!("{group}/v1"));
    review["kind"] = json!(kind);
}

fn present(value: &Value) -> bool {
    !value.is_null()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::Index;

    fn index() -> Index {
        let index = Index::new();
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        index.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "r"}, "rules": rules}),
        );
        index.upsert(
            "clusterrolebindings",
            &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "Group", "name": "g"}]}),
        );
        index
    }

    #[test]
    fn access_reviews_answer_for_others_and_for_oneself() {
        let index = index();
        let spec = json!({"groups": ["g"], "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}});
        let review = subject_access(&index, json!({"spec": spec})).unwrap();
        assert_eq!(review["status"]["allowed"], true);
        assert_eq!(
            review["status"]["reason"],
            r#"RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "r" to Group "g""#
        );
        let me = Arc::new(User::new("me", &[]));
        let spec = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
        let review = self_subject_access(&index, &me, json!({"spec": spec})).unwrap();
        assert_eq!(review["status"], json!({"allowed": false}));
    }

    #[test]
    fn malformed_reviews_are_refused() {
        let index = index();
        assert_eq!(
            subject_access(&index, json!({"spec": {"user": "u"}}))
                .unwrap_err()
                .code,
            422
        );
        let spec = json!({"resourceAttributes": {"verb": "get"}});
        let refused = subject_access(&index, json!({"spec": spec})).unwrap_err();
        assert!(
            refused
                .message
                .contains("spec.user: Invalid value: \"\": at least one of user or group"),
            "{refused}"
        );
        let spec = json!({"user": "u", "resourceAttributes": {"namespace": "b"}});
        assert_eq!(
            local_subject_access(&index, "a", json!({"spec": spec}))
                .unwrap_err()
                .code,
            422
        );
        assert_eq!(
            self_subject_rules(&index, &User::default(), json!({"spec": {}}))
                .unwrap_err()
                .code,
            400
        );
    }

    #[test]
    fn rules_reviews_list_what_the_user_holds() {
        let review = self_subject_rules(
            &index(),
            &User::new("u", &["g"]),
            json!({"spec": {"namespace": "a"}}),
        )
        .unwrap();
        assert_eq!(
            review["status"],
            json!({"resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
                "nonResourceRules": [], "incomplete": false})
        );
    }

    #[tokio::test]
    async fn unknown_tokens_are_not_authenticated() {
        let review = token(&[], &[], json!({"spec": {"token": "x"}}))
            .await
            .unwrap();
        assert_eq!(review["status"]["error"], "invalid bearer token");
        assert!(review["status"].get("authenticated").is_none());
        assert_eq!(
            token(&[], &[], json!({"spec": {}})).await.unwrap_err().code,
            400
        );
    }
}
