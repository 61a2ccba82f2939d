//! Allocation against an in-memory store.

use std::collections::BTreeSet;

use keelson_auth::Qualified;
use keelson_auth::lookup::testing::Objects;
use parking_lot::Mutex;
use serde_json::json;

use super::ips::ADDRESSES;
use super::*;

#[derive(Default)]
struct Memory {
    objects: Arc<Objects>,
    ports: Mutex<Option<Value>>,
    revision: Mutex<u64>,
}

#[async_trait]
impl AddressStore for Memory {
    async fn create_ip_address(&self, mut address: Value) -> Result<(), Status> {
        let name = address.text("metadata.name").to_owned();
        if self.objects.get(ADDRESSES, "", &name).is_some() {
            return Err(Status::already_exists(
                Qualified::new("networking.k8s.io", "ipaddresses"),
                &name,
            ));
        }
        address["metadata"]["uid"] = json!(name);
        self.objects.put(ADDRESSES, &address);
        Ok(())
    }

    async fn delete_ip_address(&self, name: &str, _uid: &str) -> Result<(), Status> {
        self.objects.take(ADDRESSES, "", name);
        Ok(())
    }

    async fn node_ports(&self) -> Result<Option<Value>, Status> {
        let stored = self.ports.lock().clone();
        // Others may write between the read and the write.
        tokio::task::yield_now().await;
        Ok(stored)
    }

    async fn put_node_ports(&self, mut allocation: Value) -> Result<(), Status> {
        let mut stored = self.ports.lock();
        let current = stored
            .as_ref()
            .map(|s| s.text("metadata.resourceVersion").to_owned())
            .unwrap_or_default();
        if current != allocation.text("metadata.resourceVersion") {
            return Err(Status::modified(
                Qualified::new("", "rangeallocations"),
                "servicenodeports",
            ));
        }
        let mut revision = self.revision.lock();
        *revision += 1;
        allocation["metadata"]["resourceVersion"] = json!(revision.to_string());
        *stored = Some(allocation);
        Ok(())
    }
}

fn setup(cidr: &str) -> (Arc<Memory>, ServiceAddresses) {
    let memory = Arc::new(Memory::default());
    memory.objects.put(
        "servicecidrs.networking.k8s.io",
        &json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [cidr]}}),
    );
    let addresses = ServiceAddresses::new(
        memory.clone(),
        memory.objects.clone(),
        PortRange::DEFAULT,
        vec![Family::V4],
    );
    (memory, addresses)
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

fn held(memory: &Memory) -> BTreeSet<String> {
    memory
        .objects
        .list(ADDRESSES, "")
        .iter()
        .map(|a| a.text("metadata.name").to_owned())
        .collect()
}

#[tokio::test]
async fn a_service_gets_an_address_and_gives_it_back() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let mut web = service(
        "web",
        json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"port": 80}]}),
    );
    let reservation = addresses.create(&mut web, false).await.unwrap();
    addresses.commit(reservation).await;
    let ip = web.text("spec.clusterIP").to_owned();
    assert_eq!(web["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(
        (&web["spec"]["ipFamilies"], &web["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    assert!(
        ip.parse::<std::net::Ipv4Addr>().unwrap()
            >= "10.96.1.0".parse::<std::net::Ipv4Addr>().unwrap()
    );
    let object = memory.objects.get(ADDRESSES, "", &ip).unwrap();
    assert_eq!(
        object["spec"]["parentRef"],
        json!({"group": "", "resource": "services", "namespace": "ns", "name": "web"})
    );
    addresses.delete(&web).await;
    assert!(held(&memory).is_empty());
}

#[tokio::test]
async fn chosen_addresses_are_checked() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let spec = |ip: &str| json!({"type": "ClusterIP", "clusterIP": ip, "selector": {"a": "b"}});
    let mut dns = service("dns", spec("10.96.0.10"));
    drop(addresses.create(&mut dns, false).await.unwrap());
    let refused = addresses
        .create(&mut service("other", spec("10.96.0.10")), false)
        .await
        .unwrap_err();
    assert_eq!(
        refused.message,
        "Service \"other\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: \
         provided IP is already allocated"
    );
    let refused = addresses
        .create(&mut service("other", spec("10.96.0.0")), false)
        .await
        .unwrap_err();
    assert!(
        refused
            .message
            .contains("the provided network does not match the current range"),
        "{refused}"
    );
    assert!(
        addresses
            .create(&mut service("other", spec("1.2.3.4")), false)
            .await
            .is_err()
    );
    assert_eq!(held(&memory).len(), 1);
    // What another Service holds is not freed by one that merely names it.
    addresses
        .delete(&service("other", spec("10.96.0.10")))
        .await;
    assert_eq!(held(&memory).len(), 1);
}

#[tokio::test]
async fn a_small_range_is_used_up_and_reused() {
    let (memory, addresses) = setup("10.0.0.0/29");
    for i in 0..6 {
        let mut one = service(
            &format!("s{i}"),
            json!({"type": "ClusterIP", "selector": {"a": "b"}}),
        );
        drop(addresses.create(&mut one, false).await.unwrap());
    }
    let full = addresses
        .create(&mut service("late", json!({"selector": {"a": "b"}})), false)
        .await
        .unwrap_err();
    assert!(full.message.contains("range is full"), "{full}");
    assert_eq!(held(&memory).len(), 6);
}

#[tokio::test]
async fn headless_services_hold_nothing() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let mut selected = service("a", json!({"clusterIP": "None", "selector": {"a": "b"}}));
    drop(addresses.create(&mut selected, false).await.unwrap());
    assert_eq!(selected["spec"]["ipFamilies"], json!(["IPv4"]));
    let mut free = service("b", json!({"clusterIP": "None"}));
    drop(addresses.create(&mut free, false).await.unwrap());
    assert_eq!(
        (&free["spec"]["ipFamilies"], &free["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
    );
    assert!(held(&memory).is_empty());
}

#[tokio::test]
async fn dual_stack_is_refused_where_there_is_one_family() {
    let (_, addresses) = setup("10.96.0.0/12");
    let mut dual = service(
        "a",
        json!({"selector": {"a": "b"}, "ipFamilyPolicy": "RequireDualStack"}),
    );
    let refused = addresses.create(&mut dual, false).await.unwrap_err();
    assert!(
        refused
            .message
            .contains("this cluster is not configured for dual-stack services"),
        "{refused}"
    );
    let mut prefer = service(
        "a",
        json!({"selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}),
    );
    drop(addresses.create(&mut prefer, false).await.unwrap());
    assert_eq!(prefer["spec"]["ipFamilies"], json!(["IPv4"]));
    let mut six = service("b", json!({"selector": {"a": "b"}, "ipFamilies": ["IPv6"]}));
    assert!(
        addresses
            .create(&mut six, false)
            .await
            .unwrap_err()
            .message
            .contains("not configured on this cluster")
    );
}

#[tokio::test]
async fn node_ports_are_shared_by_protocols_and_released() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let spec = json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [
        {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"name": "w", "port": 80}]});
    let mut dns = service("dns", spec);
    drop(addresses.create(&mut dns, false).await.unwrap());
    assert_eq!(
        (
            &dns["spec"]["ports"][0]["nodePort"],
            &dns["spec"]["ports"][1]["nodePort"]
        ),
        (&json!(30053), &json!(30053))
    );
    assert!(dns["spec"]["ports"][2]["nodePort"].as_u64().unwrap() >= 30086);
    let taken = json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 1, "nodePort": 30053}]});
    let refused = addresses
        .create(&mut service("x", taken), false)
        .await
        .unwrap_err();
    assert_eq!(
        refused.message,
        "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"
    );
    // Its address was given back.
    assert_eq!(held(&memory).len(), 1);
    let mut plain = dns.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    let reservation = addresses.update(&mut plain, &dns, false).await.unwrap();
    addresses.commit(reservation).await;
    assert_eq!(memory.ports.lock().as_ref().unwrap()["data"], "");
}

#[tokio::test]
async fn an_update_that_leaves_fields_out_keeps_them() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let spec =
        json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"name": "w", "port": 80}]});
    let mut old = service("web", spec.clone());
    drop(addresses.create(&mut old, false).await.unwrap());
    let mut new = service("web", spec);
    new["spec"]["ports"][0]["port"] = json!(81);
    drop(addresses.update(&mut new, &old, false).await.unwrap());
    for path in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(new["spec"][path], old["spec"][path], "{path}");
    }
    assert_eq!(
        new["spec"]["ports"][0]["nodePort"],
        old["spec"]["ports"][0]["nodePort"]
    );
    let mut moved = new.clone();
    moved["spec"]["clusterIP"] = json!("10.96.0.77");
    assert!(
        addresses
            .update(&mut moved, &new, false)
            .await
            .unwrap_err()
            .message
            .contains("may not change once set")
    );
    let mut external = service("web", json!({"type": "ExternalName", "externalName": "x"}));
    let reservation = addresses.update(&mut external, &new, false).await.unwrap();
    addresses.commit(reservation).await;
    assert!(held(&memory).is_empty());
}

#[tokio::test]
async fn parallel_allocations_never_meet() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let addresses = Arc::new(addresses);
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let addresses = addresses.clone();
            tokio::spawn(async move {
                let spec =
                    json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]});
                let mut one = service(&format!("s{i}"), spec);
                drop(addresses.create(&mut one, false).await.unwrap());
                one["spec"]["ports"][0]["nodePort"].as_u64().unwrap()
            })
        })
        .collect();
    let mut ports = BTreeSet::new();
    for task in tasks {
        assert!(ports.insert(task.await.unwrap()));
    }
    assert_eq!((ports.len(), held(&memory).len()), (8, 8));
}

#[tokio::test]
async fn dry_runs_leave_no_trace() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let spec = json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]});
    let mut web = service("web", spec);
    let reservation = addresses.create(&mut web, true).await.unwrap();
    addresses.commit(reservation).await;
    assert!(web["spec"]["ports"][0]["nodePort"].is_u64());
    assert!(held(&memory).is_empty() && memory.ports.lock().is_none());
}

#[tokio::test]
async fn leaked_ports_are_freed_after_three_runs() {
    let (memory, addresses) = setup("10.96.0.0/12");
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"a": "b"}, "ports": [{"port": 80}]});
    let mut web = service("web", spec);
    drop(addresses.create(&mut web, false).await.unwrap());
    assert!(web["spec"]["healthCheckNodePort"].is_u64());
    // The crash: the Service is never stored.
    let (mut leaks, now) = (Leaks::default(), jiff::Timestamp::now());
    let first = addresses.repair(&mut leaks, now).await.unwrap();
    assert_eq!((first.freed_ips.len(), first.freed_ports.len()), (1, 0));
    addresses.repair(&mut leaks, now).await.unwrap();
    assert_eq!(
        addresses
            .repair(&mut leaks, now)
            .await
            .unwrap()
            .freed_ports
            .len(),
        2
    );
    assert!(addresses.repair(&mut leaks, now).await.unwrap().is_clean());
    memory.objects.put("services", &web);
    let mended = addresses.repair(&mut leaks, now).await.unwrap();
    assert_eq!((mended.taken_ips.len(), mended.taken_ports.len()), (1, 2));
}

#[test]
fn the_bitmap_is_a_big_endian_number() {
    let range: PortRange = "30000-32767".parse().unwrap();
    let mut bitmap = super::ports::Bitmap::empty(range);
    bitmap.set(30000, true);
    bitmap.set(30009, true);
    assert_eq!(bitmap.to_bytes(), [2, 1]);
    assert_eq!(super::ports::Bitmap::from_bytes(range, &[2, 1]), bitmap);
    assert!("32767-30000".parse::<PortRange>().is_err());
}
