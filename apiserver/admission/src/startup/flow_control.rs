//! API priority and fairness: the levels and schemas that every cluster starts with, and how they are kept.

use serde_json::{Value, json};

use super::Object;

const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// A limited level that queues: name, shares, lendable percent, queues, hand size.
type Level = (&'static str, i64, i64, i64, i64);

const LEVELS: [Level; 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// Whose requests a schema takes.
enum Who {
    Groups(&'static [&'static str]),
    Users(&'static [&'static str]),
    /// Every service account of kube-system.
    SystemAccounts,
    /// Users, and every service account of kube-system.
    UsersAndSystemAccounts(&'static [&'static str]),
}

/// Which requests a schema takes.
enum What {
    Everything,
    Probes,
    /// Leases, by these verbs.
    Leases,
    NodesAndLeases,
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    who: Who,
    what: What,
}

const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];
const COMPONENTS: &[&str] = &["system:kube-controller-manager", "system:kube-scheduler"];

const fn schema(
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    who: Who,
    what: What,
) -> Schema {
    Schema {
        name,
        level,
        precedence,
        distinguisher,
        who,
        what,
    }
}

const SCHEMAS: [Schema; 11] = [
    schema(
        "exempt",
        "exempt",
        1,
        "",
        Who::Groups(&["system:masters"]),
        What::Everything,
    ),
    schema(
        "probes",
        "exempt",
        2,
        "",
        Who::Groups(EVERYBODY),
        What::Probes,
    ),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        Who::UsersAndSystemAccounts(COMPONENTS),
        What::Leases,
    ),
    schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        Who::Groups(&["system:nodes"]),
        What::NodesAndLeases,
    ),
    schema(
        "system-nodes",
        "system",
        500,
        "ByUser",
        Who::Groups(&["system:nodes"]),
        What::Everything,
    ),
    schema(
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        Who::Users(&["system:kube-controller-manager"]),
        What::Everything,
    ),
    schema(
        "kube-scheduler",
        "workload-high",
        800,
        "ByNamespace",
        Who::Users(&["system:kube-scheduler"]),
        What::Everything,
    ),
    schema(
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        Who::SystemAccounts,
        What::Everything,
    ),
    schema(
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        Who::Groups(&["system:serviceaccounts"]),
        What::Everything,
    ),
    schema(
        "global-default",
        "global-default",
        9900,
        "ByUser",
        Who::Groups(EVERYBODY),
        What::Everything,
    ),
    schema(
        "catch-all",
        "catch-all",
        10000,
        "ByUser",
        Who::Groups(EVERYBODY),
        What::Everything,
    ),
];

/// Every level and schema, levels first.
pub fn objects() -> Vec<Object> {
    levels()
        .into_iter()
        .chain(SCHEMAS.iter().map(flow_schema))
        .collect()
}

/// The levels and schemas that no server can be without.
pub fn mandatory() -> Vec<Object> {
    let is_needed = |o: &Object| {
        matches!(
            o.value["metadata"]["name"].as_str(),
            Some("exempt" | "catch-all")
        )
    };
    objects().into_iter().filter(is_needed).collect()
}

/// What to write so that an object is as the server wants it: nothing if an administrator took it over by setting the annotation
/// to `false`. Objects that are missing are created by the caller.
pub fn reconcile(wanted: &Value, existing: &Value) -> Option<Value> {
    let key = AUTOUPDATE.replace('/', "~1");
    let annotation = existing
        .pointer(&format!("/metadata/annotations/{key}"))
        .and_then(Value::as_str);
    // The two that the server cannot do without are never given away.
    let mandatory = matches!(
        existing.pointer("/metadata/name").and_then(Value::as_str),
        Some("exempt" | "catch-all")
    );
    if annotation == Some("false") && !mandatory || existing["spec"] == wanted["spec"] {
        return None;
    }
    // Before it was annotated, somebody else's change counts as taking over.
    if annotation.is_none() && !mandatory {
        return None;
    }
    let mut updated = existing.clone();
    updated["spec"] = wanted["spec"].clone();
    Some(updated)
}

fn object(resource: &'static str, kind: &str, name: &str, spec: Value) -> Object {
    Object {
        resource,
        value: json!({"apiVersion": GROUP_VERSION, "kind": kind,
            "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec}),
    }
}

fn level(name: &str, spec: Value) -> Object {
    object(
        "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        name,
        spec,
    )
}

fn levels() -> Vec<Object> {
    let mut all = vec![
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}}),
        ),
    ];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        level(
            name,
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue",
                    "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}}}}),
        )
    }));
    all
}

fn flow_schema(schema: &Schema) -> Object {
    let mut rule = json!({"subjects": subjects(&schema.who)});
    let resource = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = json!(true);
        }
        rule
    };
    match schema.what {
        What::Everything => {
            rule["resourceRules"] = json!([resource(&["*"], "*", &["*"], true)]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        What::Probes => {
            rule["nonResourceRules"] =
                json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
        }
        What::Leases => {
            let verbs = ["get", "create", "update"];
            rule["resourceRules"] =
                json!([resource(&verbs, "coordination.k8s.io", &["leases"], false)]);
        }
        What::NodesAndLeases => {
            rule["resourceRules"] = json!([
                resource(&["*"], "", &["nodes", "nodes/status"], true),
                resource(&["*"], "coordination.k8s.io", &["leases"], false),
            ]);
        }
    }
    let mut spec = json!({"priorityLevelConfiguration": {"name": schema.level},
        "matchingPrecedence": schema.precedence, "rules": [rule]});
    if !schema.distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": schema.distinguisher});
    }
    object(
        "flowschemas.flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        schema.name,
        spec,
    )
}

fn subjects(who: &Who) -> Vec<Value> {
    let group = |name: &&str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &&str| json!({"kind": "User", "user": {"name": name}});
    let accounts = || json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
    match who {
        Who::Groups(names) => names.iter().map(group).collect(),
        Who::Users(names) => names.iter().map(user).collect(),
        Who::SystemAccounts => vec![accounts()],
        Who::UsersAndSystemAccounts(names) => names.iter().map(user).chain([accounts()]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let objects = objects();
        assert_eq!(objects.len(), 8 + 11);
        for schema in objects
            .iter()
            .filter(|o| o.resource.starts_with("flowschemas"))
        {
            let level = &schema.value["spec"]["priorityLevelConfiguration"]["name"];
            assert!(objects.iter().any(
                |o| o.resource.starts_with("priority") && o.value["metadata"]["name"] == *level
            ));
        }
    }

    #[test]
    fn an_administrators_level_is_left_alone() {
        let wanted = levels().pop().unwrap().value;
        let mut existing = wanted.clone();
        assert_eq!(reconcile(&wanted, &existing), None);
        existing["spec"]["limited"]["nominalConcurrencyShares"] = json!(1);
        assert_eq!(
            reconcile(&wanted, &existing).unwrap()["spec"],
            wanted["spec"]
        );
        existing["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&wanted, &existing), None);
    }
}
