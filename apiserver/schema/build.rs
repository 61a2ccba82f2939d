//! Gathers what OpenAPI documents say beyond the types' tables: descriptions, from k8s-openapi's schemas, into one
//! compressed file.

use std::error::Error;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Visits types and all that they refer to.
macro_rules! visit {
    ($generator:ident, $($module:path => $($kind:ident),+;)+) => {
        $({
            use $module as module;
            $($generator.subschema_for::<module::$kind>();)+
        })+
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::draft2019_09().into_generator();
    visit_kinds(&mut generator);
    let mut facts = Map::new();
    for (name, schema) in generator.take_definitions(true) {
        let mut fact = Map::new();
        if let Some(text) = schema.get("description") {
            fact.insert("d".to_owned(), text.clone());
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let fields: Map<String, Value> = properties
            .into_iter()
            .flatten()
            .filter_map(|(field, schema)| Some((field.clone(), description(schema)?.clone())))
            .collect();
        if !fields.is_empty() {
            fact.insert("p".to_owned(), Value::Object(fields));
        }
        facts.insert(name, Value::Object(fact));
    }
    let path = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptions.json.z");
    let mut encoder = ZlibEncoder::new(std::fs::File::create(path)?, Compression::best());
    encoder.write_all(Value::Object(facts).to_string().as_bytes())?;
    encoder.finish()?;
    Ok(())
}

/// A property's description, which stands beside its reference or inside it.
fn description(schema: &Value) -> Option<&Value> {
    schema.get("description").or_else(|| {
        let parts = schema.get("allOf")?.as_array()?;
        parts.iter().find_map(|part| part.get("description"))
    })
}

fn visit_kinds(generator: &mut SchemaGenerator) {
    visit! { generator,
        k8s_openapi::api::admissionregistration::v1 => MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration;
        k8s_openapi::api::apps::v1 => ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet;
        k8s_openapi::api::authentication::v1 => SelfSubjectReview, TokenRequest, TokenReview;
        k8s_openapi::api::authorization::v1 => LocalSubjectAccessReview, SelfSubjectAccessReview,
            SelfSubjectRulesReview, SubjectAccessReview;
        k8s_openapi::api::autoscaling::v1 => HorizontalPodAutoscaler, Scale;
        k8s_openapi::api::autoscaling::v2 => HorizontalPodAutoscaler;
        k8s_openapi::api::batch::v1 => CronJob, Job;
        k8s_openapi::api::certificates::v1 => CertificateSigningRequest;
        k8s_openapi::api::coordination::v1 => Lease;
        k8s_openapi::api::core::v1 => Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace,
            Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota,
            Secret, Service, ServiceAccount;
        k8s_openapi::api::discovery::v1 => EndpointSlice;
        k8s_openapi::api::events::v1 => Event;
        k8s_openapi::api::flowcontrol::v1 => FlowSchema, PriorityLevelConfiguration;
        k8s_openapi::api::networking::v1 => IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR;
        k8s_openapi::api::node::v1 => RuntimeClass;
        k8s_openapi::api::policy::v1 => Eviction, PodDisruptionBudget;
        k8s_openapi::api::rbac::v1 => ClusterRole, ClusterRoleBinding, Role, RoleBinding;
        k8s_openapi::api::resource::v1 => DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
        k8s_openapi::api::scheduling::v1 => PriorityClass;
        k8s_openapi::api::storage::v1 => CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
            VolumeAttributesClass;
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 => CustomResourceDefinition;
        k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 => APIService;
        k8s_openapi::apimachinery::pkg::apis::meta::v1 => DeleteOptions, ListMeta, Status, APIResourceList, APIGroup,
            APIGroupList;
    }
}
