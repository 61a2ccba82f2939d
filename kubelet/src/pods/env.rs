//! The environment of a container: Service variables, `envFrom`, `env` with `$(VAR)` references, and where values
//! come from. Look-ups go through [`Lookup`], so that the rules can be tested without an API server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::downward;
use crate::objects::ObjectError;

/// Why an environment can't be made: the message of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// A ConfigMap or Secret is missing.
    #[error("{0}")]
    Object(#[from] ObjectError),
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// Key.
        key: String,
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A field or resource that doesn't exist.
    #[error("{0}")]
    Downward(#[from] downward::DownwardError),
    /// The services are not known yet.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesUnknown,
    /// A file of `fileKeyRef`.
    #[error("{0}")]
    File(String),
}

/// Where values come from.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// A ConfigMap of the pod's namespace.
    async fn config_map(&self, name: &str) -> Result<Arc<ConfigMap>, ObjectError>;
    /// A Secret of the pod's namespace.
    async fn secret(&self, name: &str) -> Result<Arc<Secret>, ObjectError>;
    /// Services of a namespace.
    async fn services(&self, namespace: &str) -> Option<Vec<Arc<Service>>>;
    /// Directory of a volume on the host.
    fn volume(&self, name: &str) -> Option<PathBuf>;
}

/// Replaces `$(NAME)` by what `get` knows; `$$(NAME)` stays `$(NAME)`; the unknown stays as written.
pub fn expand(text: &str, get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(end) = rest.strip_prefix('(').and_then(|r| r.find(')')) {
            let name = &rest[1..=end];
            match get(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = &rest[end + 2..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn valid_name(name: &str) -> bool {
    // Relaxed validation: any printable ASCII but '='.
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn service_variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(ip) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return Vec::new();
    };
    let name = service
        .metadata
        .name
        .as_deref()
        .unwrap_or_default()
        .to_uppercase()
        .replace('-', "_");
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let mut vars = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            vars.push((
                format!("{name}_SERVICE_PORT_{port_name}"),
                port.port.to_string(),
            ));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            vars.push((format!("{name}_PORT"), url.clone()));
        }
        vars.push((prefix.clone(), url));
        vars.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        vars.push((format!("{prefix}_PORT"), port.port.to_string()));
        vars.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    vars
}

/// Service variables of a pod: its namespace's if links are enabled, `kubernetes` of `default` always.
async fn services(pod: &Pod, lookup: &dyn Lookup) -> Result<BTreeMap<String, String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true);
    let master = lookup
        .services("default")
        .await
        .ok_or(EnvError::ServicesUnknown)?;
    let mut chosen: Vec<Arc<Service>> = master
        .into_iter()
        .filter(|s| s.metadata.name.as_deref() == Some("kubernetes"))
        .collect();
    if links {
        chosen.extend(
            lookup
                .services(namespace)
                .await
                .ok_or(EnvError::ServicesUnknown)?,
        );
    }
    Ok(chosen.iter().flat_map(|s| service_variables(s)).collect())
}

struct Builder<'a> {
    pod: &'a Pod,
    container: &'a Container,
    lookup: &'a dyn Lookup,
    ips: &'a [IpAddr],
    host_ips: &'a [IpAddr],
    capacity: &'a downward::Capacity,
}

impl Builder<'_> {
    async fn sources(&self, vars: &mut Vec<(String, String)>) -> Result<(), EnvError> {
        for source in self.container.env_from.iter().flatten() {
            let prefix = source.prefix.clone().unwrap_or_default();
            let mut pairs: Vec<(String, String)> = Vec::new();
            if let Some(reference) = &source.config_map_ref {
                match self.lookup.config_map(&reference.name).await {
                    Ok(map) => pairs.extend(
                        map.data
                            .iter()
                            .flatten()
                            .map(|(k, v)| (k.clone(), v.clone())),
                    ),
                    Err(ObjectError::NotFound { .. }) if reference.optional == Some(true) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(reference) = &source.secret_ref {
                match self.lookup.secret(&reference.name).await {
                    Ok(secret) => {
                        pairs.extend(
                            secret.data.iter().flatten().map(|(k, v)| {
                                (k.clone(), String::from_utf8_lossy(&v.0).into_owned())
                            }),
                        )
                    }
                    Err(ObjectError::NotFound { .. }) if reference.optional == Some(true) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            for (key, value) in pairs {
                let name = format!("{prefix}{key}");
                if valid_name(&name) {
                    set(vars, name, value);
                }
            }
        }
        Ok(())
    }

    async fn value(&self, var: &EnvVar) -> Result<Option<String>, EnvError> {
        let Some(from) = &var.value_from else {
            return Ok(Some(String::new()));
        };
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        if let Some(field) = &from.field_ref {
            return Ok(Some(downward::env_field(
                self.pod,
                &field.field_path,
                self.ips,
                self.host_ips,
            )?));
        }
        if let Some(resource) = &from.resource_field_ref {
            return Ok(Some(downward::resource(
                self.pod,
                self.container,
                resource,
                self.capacity,
            )?));
        }
        if let Some(key) = &from.config_map_key_ref {
            let optional = key.optional == Some(true);
            let map = match self.lookup.config_map(&key.name).await {
                Ok(map) => map,
                Err(ObjectError::NotFound { .. }) if optional => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            return match map.data.as_ref().and_then(|d| d.get(&key.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(EnvError::Key {
                    key: key.key.clone(),
                    kind: "ConfigMap",
                    namespace,
                    name: key.name.clone(),
                }),
            };
        }
        if let Some(key) = &from.secret_key_ref {
            let optional = key.optional == Some(true);
            let secret = match self.lookup.secret(&key.name).await {
                Ok(secret) => secret,
                Err(ObjectError::NotFound { .. }) if optional => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            return match secret.data.as_ref().and_then(|d| d.get(&key.key)) {
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
                None if optional => Ok(None),
                None => Err(EnvError::Key {
                    key: key.key.clone(),
                    kind: "Secret",
                    namespace,
                    name: key.name.clone(),
                }),
            };
        }
        if let Some(file) = &from.file_key_ref {
            return self.file_value(file);
        }
        Ok(None)
    }

    fn file_value(
        &self,
        file: &k8s_openapi::api::core::v1::FileKeySelector,
    ) -> Result<Option<String>, EnvError> {
        let missing = |what: String| {
            if file.optional == Some(true) {
                Ok(None)
            } else {
                Err(EnvError::File(what))
            }
        };
        let Some(root) = self.lookup.volume(&file.volume_name) else {
            return Err(EnvError::File(format!(
                "cannot find the volume {:?} referenced by FileKeyRef",
                file.volume_name
            )));
        };
        let opened =
            match crate::volumes::subpath::open_beneath(&root, std::path::Path::new(&file.path)) {
                Ok(opened) => opened,
                Err(error) => {
                    return missing(format!("couldn't read file {:?}: {error}", file.path));
                }
            };
        let mut text = String::new();
        // As much as upstream takes of such a file.
        if let Err(error) =
            std::io::Read::read_to_string(&mut std::io::Read::take(opened, 64 * 1024), &mut text)
        {
            return Err(EnvError::File(format!(
                "couldn't read file {:?}: {error}",
                file.path
            )));
        }
        let found = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == file.key).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
        });
        match found {
            Some(value) => Ok(Some(value)),
            None => missing(format!(
                "environment variable key {:?} not found in file {:?}",
                file.key, file.path
            )),
        }
    }
}

fn set(vars: &mut Vec<(String, String)>, name: String, value: String) {
    match vars.iter_mut().find(|(n, _)| *n == name) {
        Some((_, old)) => *old = value,
        None => vars.push((name, value)),
    }
}

/// Addresses and capacity that values may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Addresses of the pod.
    pub ips: &'a [IpAddr],
    /// Addresses of the node.
    pub host_ips: &'a [IpAddr],
    /// What limits default to.
    pub capacity: &'a downward::Capacity,
}

/// The whole environment of a container.
pub async fn build(
    pod: &Pod,
    container: &Container,
    lookup: &dyn Lookup,
    facts: Facts<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let services = services(pod, lookup).await?;
    let builder = Builder {
        pod,
        container,
        lookup,
        ips: facts.ips,
        host_ips: facts.host_ips,
        capacity: facts.capacity,
    };
    let mut vars = Vec::new();
    builder.sources(&mut vars).await?;
    for var in container.env.iter().flatten() {
        let value = match &var.value {
            Some(value) if !value.is_empty() => {
                let get = |name: &str| {
                    vars.iter()
                        .find(|(n, _)| n == name)
                        .map(|(_, v)| v.clone())
                        .or_else(|| services.get(name).cloned())
                };
                Some(expand(value, &get))
            }
            _ => builder.value(var).await?,
        };
        if let Some(value) = value {
            set(&mut vars, var.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !vars.iter().any(|(n, _)| *n == name) {
            vars.push((name, value));
        }
    }
    Ok(vars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed;

    #[async_trait]
    impl Lookup for Fixed {
        async fn config_map(&self, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
            match name {
                "c" => Ok(Arc::new(
                    serde_json::from_value(json!({"data": {"A": "1", "bad=": "x"}})).unwrap(),
                )),
                _ => Err(ObjectError::NotFound {
                    resource: "configmap".into(),
                    name: name.into(),
                }),
            }
        }
        async fn secret(&self, name: &str) -> Result<Arc<Secret>, ObjectError> {
            match name {
                "s" => Ok(Arc::new(
                    serde_json::from_value(json!({"data": {"P": "cHc="}})).unwrap(),
                )),
                _ => Err(ObjectError::NotFound {
                    resource: "secret".into(),
                    name: name.into(),
                }),
            }
        }
        async fn services(&self, namespace: &str) -> Option<Vec<Arc<Service>>> {
            let (name, ip) = if namespace == "default" {
                ("kubernetes", "10.96.0.1")
            } else {
                ("my-api", "10.96.3.4")
            };
            Some(vec![Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}})).unwrap(),
            )])
        }
        fn volume(&self, _: &str) -> Option<PathBuf> {
            None
        }
    }

    async fn env(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"k": "v"}}, "spec": {"containers": [container]}})).unwrap();
        let capacity = downward::Capacity {
            cpu_millis: 2000,
            memory: 1 << 30,
            ephemeral: 0,
        };
        let facts = Facts {
            ips: &[],
            host_ips: &[],
            capacity: &capacity,
        };
        build(
            &pod,
            &pod.spec.as_ref().unwrap().containers[0],
            &Fixed,
            facts,
        )
        .await
    }

    fn get<'a>(vars: &'a [(String, String)], name: &str) -> Option<&'a str> {
        vars.iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    #[tokio::test]
    async fn everything_together() {
        let vars = env(json!({"name": "c", "envFrom": [{"prefix": "X_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [
                {"name": "URL", "value": "http://$(MY_API_SERVICE_HOST):$(MY_API_SERVICE_PORT_HTTP)/$(X_A)$$(X_A)$(NO)"},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "P"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['k']"}}},
            ]}))
        .await
        .unwrap();
        assert_eq!(get(&vars, "URL"), Some("http://10.96.3.4:80/1$(X_A)$(NO)"));
        assert_eq!(get(&vars, "P"), Some("pw"));
        assert_eq!(get(&vars, "O"), None);
        assert_eq!(get(&vars, "L"), Some("v"));
        assert_eq!(
            get(&vars, "KUBERNETES_PORT_80_TCP"),
            Some("tcp://10.96.0.1:80")
        );
        assert!(!vars.iter().any(|(n, _)| n.contains('=')));
    }

    #[tokio::test]
    async fn upstreams_sentences() {
        let error = env(json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "z"}}}]})).await.unwrap_err();
        assert_eq!(error.to_string(), "couldn't find key z in ConfigMap ns/c");
        let error = env(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]}))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "configmap \"gone\" not found");
    }
}
