//! Fitting endpoints into EndpointSlices with as few writes as possible. No I/O.
//!
//! Endpoints stay in the slice they are in. Slices that change anyway are filled first; an unchanged slice is touched only if all that is
//! left fits into it; then slices are created.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// Endpoints with the same address type and ports.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// The ports that all of them have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Slices to create.
    pub create: Vec<EndpointSlice>,
    /// Slices to replace.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

type PortKey = Vec<(Option<String>, Option<String>, Option<i32>, Option<String>)>;

fn port_key(ports: &[EndpointPort]) -> PortKey {
    let mut key: PortKey = ports
        .iter()
        .map(|port| {
            (
                port.name.clone(),
                port.protocol.clone(),
                port.port,
                port.app_protocol.clone(),
            )
        })
        .collect();
    key.sort();
    key
}

/// What tells an endpoint from others: whom it leads to and where.
fn identity(endpoint: &Endpoint) -> (Option<String>, Vec<String>) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone());
    (uid, endpoint.addresses.clone())
}

/// Plans one owner's slices. `make` gives an empty slice with the labels and owner that all should have; `types` are the
/// address types of which there should be at least an empty slice.
pub fn plan(
    existing: &[Arc<EndpointSlice>],
    groups: Vec<Group>,
    types: &[String],
    most: usize,
    make: impl Fn(&str) -> EndpointSlice,
) -> Changes {
    let mut changes = Changes::default();
    let mut present: BTreeMap<(String, PortKey), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let key = (
            slice.address_type.clone(),
            port_key(slice.ports.as_deref().unwrap_or_default()),
        );
        present.entry(key).or_default().push(slice.clone());
    }
    let mut kept: HashSet<&str> = HashSet::new();
    for group in &groups {
        let key = (group.address_type.clone(), port_key(&group.ports));
        let slices = present.remove(&key).unwrap_or_default();
        if plan_group(slices, group, most, &make, &mut changes) {
            kept.insert(&group.address_type);
        }
    }
    // Slices of ports that nobody has any more; one without endpoints may stay as the placeholder.
    for slice in present.into_values().flatten() {
        let address_type = slice.address_type.as_str();
        let empty = slice.endpoints.as_ref().is_none_or(Vec::is_empty)
            && slice.ports.as_ref().is_none_or(Vec::is_empty);
        if let Some(wanted) = types
            .iter()
            .find(|wanted| *wanted == address_type)
            .filter(|wanted| empty && !kept.contains(wanted.as_str()))
        {
            kept.insert(wanted);
            let dressed = dress(&slice, &make(wanted));
            if dressed != *slice {
                changes.update.push(dressed);
            }
        } else {
            changes.delete.push(slice);
        }
    }
    for address_type in types {
        if !kept.contains(address_type.as_str()) {
            changes.create.push(make(address_type));
        }
    }
    reuse(&mut changes);
    changes
}

/// An update instead of a creation and a deletion: the number of slices stays small while ports change.
fn reuse(changes: &mut Changes) {
    let mut left = Vec::new();
    for slice in changes.delete.drain(..) {
        let place = changes
            .create
            .iter()
            .position(|new| new.address_type == slice.address_type);
        match place {
            Some(place) => {
                let new = changes.create.remove(place);
                let mut updated = dress(&slice, &new);
                updated.endpoints = new.endpoints;
                updated.ports = new.ports;
                changes.update.push(updated);
            }
            None => left.push(slice),
        }
    }
    changes.delete = left;
}

/// The slice with the labels, annotations and owners of `like`.
fn dress(slice: &EndpointSlice, like: &EndpointSlice) -> EndpointSlice {
    let mut dressed = slice.clone();
    dressed.metadata.labels.clone_from(&like.metadata.labels);
    dressed
        .metadata
        .owner_references
        .clone_from(&like.metadata.owner_references);
    if like.metadata.annotations.is_some() {
        dressed
            .metadata
            .annotations
            .clone_from(&like.metadata.annotations);
    }
    dressed
}

/// A slice and the endpoints that it will have.
type Filled = (Arc<EndpointSlice>, Vec<Endpoint>);

/// Says whether any slice of the group is left or made.
fn plan_group(
    mut slices: Vec<Arc<EndpointSlice>>,
    group: &Group,
    most: usize,
    make: &impl Fn(&str) -> EndpointSlice,
    changes: &mut Changes,
) -> bool {
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut order: Vec<_> = group.endpoints.iter().map(identity).collect();
    let mut desired: HashMap<_, &Endpoint> = order.iter().cloned().zip(&group.endpoints).collect();
    let pattern = make(&group.address_type);
    let (mut touched, mut untouched): (Vec<Filled>, Vec<Filled>) = (Vec::new(), Vec::new());
    for slice in slices {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let mut after = Vec::with_capacity(before.len());
        for endpoint in before {
            // Each desired endpoint stays in the first slice that has it.
            if let Some(wanted) = desired.remove(&identity(endpoint)) {
                after.push(wanted.clone());
            }
        }
        if after.as_slice() == before {
            untouched.push((slice, after));
        } else {
            touched.push((slice, after));
        }
    }
    order.retain(|id| desired.contains_key(id));
    let mut rest: Vec<Endpoint> = order
        .iter()
        .filter_map(|id| desired.remove(id).cloned())
        .collect();
    touched.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
    for (_, endpoints) in &mut touched {
        if !endpoints.is_empty() {
            fill(endpoints, &mut rest, most);
        }
    }
    for (_, endpoints) in &mut touched {
        fill(endpoints, &mut rest, most);
    }
    // What doesn't fill a slice of its own goes into the fullest unchanged slice that takes all of it.
    let tail = rest.len() % most;
    if tail > 0 {
        let room = untouched
            .iter()
            .enumerate()
            .filter(|(_, (_, endpoints))| endpoints.len() + tail <= most)
            .max_by_key(|(_, (_, endpoints))| endpoints.len())
            .map(|(place, _)| place);
        if let Some(place) = room {
            let (slice, mut endpoints) = untouched.remove(place);
            endpoints.extend(rest.split_off(rest.len() - tail));
            touched.push((slice, endpoints));
        }
    }
    let mut alive = false;
    for (slice, endpoints) in touched.into_iter().chain(untouched) {
        if endpoints.is_empty() {
            changes.delete.push(slice);
            continue;
        }
        alive = true;
        let mut dressed = dress(&slice, &pattern);
        dressed.endpoints = Some(endpoints);
        if dressed != *slice {
            changes.update.push(dressed);
        }
    }
    for chunk in rest.chunks(most) {
        alive = true;
        let mut slice = pattern.clone();
        slice.ports = Some(group.ports.clone());
        slice.endpoints = Some(chunk.to_vec());
        changes.create.push(slice);
    }
    alive
}

fn fill(endpoints: &mut Vec<Endpoint>, rest: &mut Vec<Endpoint>, most: usize) {
    let room = most.saturating_sub(endpoints.len()).min(rest.len());
    endpoints.extend(rest.drain(..room));
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn endpoint(address: &str) -> Endpoint {
        Endpoint {
            addresses: vec![address.into()],
            ..Endpoint::default()
        }
    }

    fn port(port: i32) -> EndpointPort {
        EndpointPort {
            port: Some(port),
            name: Some(String::new()),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }
    }

    fn make(address_type: &str) -> EndpointSlice {
        EndpointSlice {
            address_type: address_type.into(),
            ..EndpointSlice::default()
        }
    }

    fn slice(name: &str, ports: Vec<EndpointPort>, addresses: &[&str]) -> Arc<EndpointSlice> {
        Arc::new(EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            ports: Some(ports),
            endpoints: Some(addresses.iter().map(|a| endpoint(a)).collect()),
            ..make("IPv4")
        })
    }

    fn group(number: i32, addresses: &[&str]) -> Group {
        Group {
            address_type: "IPv4".into(),
            ports: vec![port(number)],
            endpoints: addresses.iter().map(|a| endpoint(a)).collect(),
        }
    }

    fn addresses(slice: &EndpointSlice) -> String {
        let all: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| e.addresses[0].clone())
            .collect();
        format!(
            "{}[{}]",
            slice.metadata.name.as_deref().unwrap_or("new"),
            all.join(" ")
        )
    }

    fn told(changes: &Changes) -> String {
        let mut words = Vec::new();
        words.extend(changes.create.iter().map(|s| format!("+{}", addresses(s))));
        words.extend(changes.update.iter().map(|s| format!("~{}", addresses(s))));
        words.extend(
            changes
                .delete
                .iter()
                .map(|s| format!("-{}", s.metadata.name.clone().unwrap())),
        );
        words.join(" ")
    }

    #[test]
    fn plans() {
        let full = slice("full", vec![port(1)], &["a", "b", "c"]);
        let part = slice("part", vec![port(1)], &["d"]);
        let other = slice("other", vec![port(2)], &["a"]);
        let none = slice("none", vec![], &[]);
        for (existing, groups, expected) in [
            (vec![], vec![], "+new[]"),
            (vec![none.clone()], vec![], ""),
            (vec![none.clone()], vec![group(1, &["a"])], "~none[a]"),
            (
                vec![],
                vec![group(1, &["a", "b", "c", "d"])],
                "+new[a b c] +new[d]",
            ),
            (vec![full.clone()], vec![group(1, &["a", "b", "c"])], ""),
            (
                vec![full.clone(), part.clone()],
                vec![group(1, &["a", "b", "c", "d", "e"])],
                "~part[d e]",
            ),
            (
                vec![full.clone(), part.clone()],
                vec![group(1, &["a", "c", "d", "e"])],
                "~full[a c e]",
            ),
            (
                vec![full.clone(), part.clone()],
                vec![group(1, &["a", "b", "c"])],
                "-part",
            ),
            (
                vec![full.clone(), other.clone()],
                vec![group(1, &["a", "b", "c"])],
                "-other",
            ),
            (vec![full.clone()], vec![group(2, &["a"])], "~full[a]"),
            (vec![full.clone()], vec![], "~full[]"),
        ] {
            let changes = plan(&existing, groups, &["IPv4".to_owned()], 3, make);
            assert_eq!(told(&changes), expected);
        }
    }

    #[test]
    fn a_duplicate_endpoint_is_taken_out_and_labels_are_mended() {
        let one = slice("one", vec![port(1)], &["a"]);
        let two = slice("two", vec![port(1)], &["a", "b"]);
        let changes = plan(
            &[one.clone(), two],
            vec![group(1, &["a", "b"])],
            &["IPv4".to_owned()],
            3,
            make,
        );
        assert_eq!(told(&changes), "~two[b]");
        let labelled = |address_type: &str| {
            let mut slice = make(address_type);
            slice.metadata.labels = Some(BTreeMap::from([("x".to_owned(), "y".to_owned())]));
            slice
        };
        let changes = plan(
            &[one],
            vec![group(1, &["a"])],
            &["IPv4".to_owned()],
            3,
            labelled,
        );
        assert_eq!(told(&changes), "~one[a]");
    }
}
