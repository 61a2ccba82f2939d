//! CNI plugins: where the node has a configuration for them, they make the pods' network instead of the bridge.
//!
//! A plugin is a program that gets its task in the environment and its configuration on standard input, and answers in
//! JSON (the CNI specification, up to 1.0). What was added is kept on disk, so that it can be deleted after a restart.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Attachment, Error};

/// A plugin that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pod's link.
const INTERFACE: &str = "eth0";

/// The plugins of a node.
#[derive(Debug)]
pub struct Plugins {
    config: PathBuf,
    programs: PathBuf,
    state: PathBuf,
}

/// What was added for a pod.
#[derive(Debug, Serialize, Deserialize)]
struct Added {
    network: Value,
    netns: PathBuf,
    result: Value,
    arguments: String,
    runtime: Value,
}

impl Plugins {
    /// With configurations, programs and what was added in these directories.
    pub fn new(config: &Path, programs: &Path, state: &Path) -> Self {
        Self {
            config: config.to_owned(),
            programs: programs.to_owned(),
            state: state.join("cni"),
        }
    }

    /// The network to make: the first configuration by name.
    pub fn network(&self) -> Result<Option<Value>, Error> {
        let entries = match std::fs::read_dir(&self.config) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    path: self.config.clone(),
                    source,
                });
            }
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let list = match path.extension().and_then(|extension| extension.to_str()) {
                Some("conflist") => true,
                Some("conf" | "json") => false,
                _ => continue,
            };
            let text = std::fs::read(&path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
            let config: Value = serde_json::from_slice(&text)
                .map_err(|error| failed(&path.display().to_string(), &error.to_string()))?;
            return Ok(Some(if list { config } else { single(config) }));
        }
        Ok(None)
    }

    /// Whether something was added for the pod.
    pub fn has(&self, uid: &str) -> bool {
        self.file(uid).exists()
    }

    /// The pods something was added for.
    pub fn owners(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.state)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".json")
                    .map(str::to_owned)
            })
            .collect()
    }

    /// Runs the plugins in order; the pod's addresses.
    pub async fn add(&self, network: Value, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        let mut added = Added {
            netns: attachment.netns.clone(),
            result: Value::Null,
            arguments: arguments(attachment),
            runtime: runtime_config(attachment),
            network,
        };
        // Before the first plugin runs: what a crash leaves half-made is deleted, too.
        self.save(&attachment.uid, &added)?;
        for plugin in plugins(&added.network) {
            added.result = self.run("ADD", &plugin, &attachment.uid, &added).await?;
        }
        self.save(&attachment.uid, &added)?;
        let addresses = addresses(&added.result);
        if addresses.is_empty() {
            return Err(failed("ADD", "the plugins gave the pod no address"));
        }
        Ok(addresses)
    }

    /// Runs the plugins in reverse to take away what was added. Fine if nothing was.
    pub async fn delete(&self, uid: &str) -> Result<(), Error> {
        let path = self.file(uid);
        let at = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(error)),
        };
        let mut added: Added = serde_json::from_slice(&text).map_err(|error| at(error.into()))?;
        if !added.netns.exists() {
            added.netns = PathBuf::new();
        }
        for plugin in plugins(&added.network).iter().rev() {
            self.run("DEL", plugin, uid, &added).await?;
        }
        std::fs::remove_file(&path).map_err(at)
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.state.join(format!("{uid}.json"))
    }

    fn save(&self, uid: &str, added: &Added) -> Result<(), Error> {
        let path = self.file(uid);
        std::fs::create_dir_all(&self.state)
            .and_then(|()| crate::containers::layout::write_json(&path, added))
            .map_err(|source| Error::Io { path, source })
    }

    async fn run(
        &self,
        command: &str,
        plugin: &Value,
        uid: &str,
        added: &Added,
    ) -> Result<Value, Error> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        // A name, not a path: configurations don't choose programs elsewhere.
        if !crate::containers::layout::file_name(kind) {
            return Err(failed(kind, "invalid plugin type"));
        }
        let input = input(plugin, added);
        let mut child = tokio::process::Command::new(self.programs.join(kind))
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", uid)
            .env("CNI_NETNS", &added.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", &added.arguments)
            .env("CNI_PATH", &self.programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(kind, &error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read fails by its own answer.
            let _ = stdin.write_all(input.to_string().as_bytes()).await;
        }
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await;
        let output = output
            .map_err(|_| failed(kind, "timed out"))?
            .map_err(|error| failed(kind, &error.to_string()))?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(answer);
        }
        let told = answer.get("msg").and_then(Value::as_str).map(str::to_owned);
        let details = answer
            .get("details")
            .and_then(Value::as_str)
            .filter(|details| !details.is_empty());
        let reason = told.unwrap_or_else(|| {
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .chars()
                .take(1000)
                .collect()
        });
        Err(failed(
            kind,
            &details.map_or(reason.clone(), |details| format!("{reason}: {details}")),
        ))
    }
}

fn failed(plugin: &str, reason: &str) -> Error {
    Error::Plugin {
        plugin: plugin.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A configuration of one plugin as a list of one.
fn single(config: Value) -> Value {
    json!({"name": config.get("name"), "cniVersion": config.get("cniVersion"), "plugins": [config]})
}

fn plugins(network: &Value) -> Vec<Value> {
    network
        .get("plugins")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

fn arguments(attachment: &Attachment) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}",
        attachment.namespace,
        attachment.name,
        uid = attachment.uid
    )
}

/// What plugins may ask for by their capabilities.
fn runtime_config(attachment: &Attachment) -> Value {
    let ports: Vec<Value> = attachment
        .ports
        .iter()
        .filter(|port| port.host_port != 0)
        .map(|port| {
            json!({"hostPort": port.host_port, "containerPort": port.container_port,
                   "protocol": port.protocol.to_ascii_lowercase(),
                   "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default()})
        })
        .collect();
    json!({"portMappings": ports})
}

/// A plugin's standard input: its own part, the network's name and version, what came before, what it can.
fn input(plugin: &Value, added: &Added) -> Value {
    let mut input = plugin.clone();
    for key in ["name", "cniVersion"] {
        if let Some(value) = added.network.get(key).filter(|value| !value.is_null()) {
            input[key] = value.clone();
        }
    }
    if !added.result.is_null() {
        input["prevResult"] = added.result.clone();
    }
    let capabilities = plugin
        .get("capabilities")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let wanted: serde_json::Map<String, Value> = added
        .runtime
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            capabilities.get(*name) == Some(&Value::Bool(true))
                && value.as_array().is_some_and(|list| !list.is_empty())
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(input) = input.as_object_mut() {
        input.remove("capabilities");
        if !wanted.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(wanted));
        }
    }
    input
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    listed
        .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::runtime::PortMapping;

    fn attachment() -> Attachment {
        Attachment {
            uid: "u1".into(),
            namespace: "ns".into(),
            name: "p".into(),
            netns: "/proc/self/ns/net".into(),
            ports: vec![PortMapping {
                host_port: 80,
                host_ip: None,
                container_port: 8080,
                protocol: "TCP".into(),
            }],
        }
    }

    fn program(directory: &Path, name: &str, script: &str) {
        let path = directory.join(name);
        std::fs::write(
            &path,
            format!(
                "#!/bin/sh\nlog={}\n{script}",
                directory.join("log").display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn a_chain_of_plugins() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let plugins = Plugins::new(&root.join("net.d"), root, root);
        assert_eq!(plugins.network().unwrap(), None);
        std::fs::create_dir(root.join("net.d")).unwrap();
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [
            {"type": "first"}, {"type": "second", "capabilities": {"portMappings": true}}]});
        std::fs::write(root.join("net.d/10-a.conflist"), list.to_string()).unwrap();
        std::fs::write(root.join("net.d/20-b.conf"), "not read").unwrap();
        program(
            root,
            "first",
            "echo first $CNI_COMMAND $CNI_IFNAME $CNI_ARGS >> $log; echo '{\"ips\":[{\"address\":\"10.1.2.3/24\"}]}'",
        );
        program(
            root,
            "second",
            "echo second $CNI_COMMAND $(cat) >> $log; echo '{\"ips\":[{\"address\":\"10.1.2.3/24\"},{\"address\":\"fd00::1/64\"}]}'",
        );
        let network = plugins.network().unwrap().unwrap();
        let found = plugins.add(network, &attachment()).await.unwrap();
        assert_eq!(
            found,
            [
                "10.1.2.3".parse::<IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        assert_eq!(plugins.owners(), ["u1"]);
        plugins.delete("u1").await.unwrap();
        plugins.delete("u1").await.unwrap();
        assert!(!plugins.has("u1"));
        let log = std::fs::read_to_string(root.join("log")).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(
            lines[0]
                .starts_with("first ADD eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;"),
            "{log}"
        );
        assert!(
            lines[1].contains("\"hostPort\":80") && lines[1].contains("\"prevResult\":{\"ips\""),
            "{log}"
        );
        assert!(
            lines[2].starts_with("second DEL") && lines[3].starts_with("first DEL"),
            "{log}"
        );
        program(
            root,
            "first",
            "echo '{\"code\":7,\"msg\":\"no way\",\"details\":\"at all\"}'; exit 1",
        );
        let error = plugins
            .add(list, &attachment())
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(error, "plugin type=\"first\" failed: no way: at all");
    }

    #[test]
    fn plugins_are_names() {
        let one = single(json!({"name": "n", "cniVersion": "0.4.0", "type": "../../bin/sh"}));
        assert_eq!(one["plugins"][0]["type"], "../../bin/sh");
        assert!(!crate::containers::layout::file_name("../../bin/sh"));
    }
}
