//! systemd units, where systemd is PID 1: one a daemon, made from the same rows as the supervised processes, hardened.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::components::{Component, NAMES};
use crate::layout::Layout;

const UNITS: &str = "/etc/systemd/system";

/// Whether systemd runs this cluster's daemons: it is PID 1 and the cluster is the default one.
pub fn in_charge(layout: &Layout) -> bool {
    layout.is_default() && Path::new("/run/systemd/system").is_dir()
}

fn unit_name(component: &str) -> String {
    format!("keelson-{component}.service")
}

fn unit_path(component: &str) -> PathBuf {
    Path::new(UNITS).join(unit_name(component))
}

/// Settings of a unit that the daemon's work allows.
fn hardening(component: &str) -> &'static str {
    // A further node's daemon enters the node's namespaces first.
    let further = component
        .rsplit_once('-')
        .is_some_and(|(_, number)| number.parse::<u32>().is_ok());
    match component {
        _ if further => {
            "Delegate=yes\nKillMode=process\nOOMScoreAdjust=-998\nLimitNOFILE=1048576\n"
        }
        // The kubelet and the proxy change the host: that is their work.
        "kubelet" => "Delegate=yes\nKillMode=process\nOOMScoreAdjust=-999\nLimitNOFILE=1048576\n",
        "kube-proxy" => {
            "ProtectHome=yes\nProtectSystem=full\nPrivateTmp=yes\nNoNewPrivileges=yes\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\nOOMScoreAdjust=-998\n"
        }
        _ => {
            "ProtectHome=yes\nProtectSystem=full\nPrivateTmp=yes\nPrivateDevices=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectControlGroups=yes\nRestrictSUIDSGID=yes\nRestrictNamespaces=yes\nLockPersonality=yes\nNoNewPrivileges=yes\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nLimitNOFILE=1048576\n"
        }
    }
}

/// The text of a component's unit.
pub fn unit(component: &Component) -> String {
    let mut text = format!(
        "# Written by `keelson up`.\n[Unit]\nDescription=Keelson {}\nWants=network-online.target\nAfter=network-online.target",
        component.name
    );
    if component.name != "etcd" {
        text.push_str(if component.name == "kube-apiserver" {
            " keelson-etcd.service"
        } else {
            " keelson-kube-apiserver.service"
        });
    }
    text.push_str("\nStartLimitIntervalSec=0\n\n[Service]\n");
    // Our daemons and etcd all speak sd_notify; only ours feed the watchdog.
    text.push_str("Type=notify\nNotifyAccess=main\nTimeoutStartSec=120\n");
    if component.name != "etcd" {
        text.push_str("WatchdogSec=60\n");
    }
    let _ = write!(text, "ExecStart={}", component.program.display());
    for argument in &component.arguments {
        let _ = write!(text, " \\\n  {}", argument.replace('%', "%%"));
    }
    // For the allocator, which starts before a daemon can say that it does without huge pages.
    text.push_str("\nEnvironment=MIMALLOC_ALLOW_THP=0");
    for (name, value) in &component.environment {
        let _ = write!(text, "\nEnvironment={name}={value}");
    }
    text.push_str("\nRestart=always\nRestartSec=200ms\nRestartSteps=5\nRestartMaxDelaySec=10\n");
    text.push_str(hardening(&component.name));
    text.push_str("\n[Install]\nWantedBy=multi-user.target\n");
    text
}

/// Writes, enables and starts the units. Returns whether anything changed.
pub fn start(components: &[Component]) -> Result<bool> {
    let mut changed = false;
    for component in components {
        let path = unit_path(&component.name);
        let text = unit(component);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        changed = true;
    }
    if changed {
        systemctl(&["daemon-reload"])?;
    }
    for name in units()? {
        if !components.iter().any(|c| unit_name(&c.name) == name) {
            systemctl(&["disable", "--now", &name])?;
            remove_unit(&name)?;
        }
    }
    let names: Vec<String> = components.iter().map(|c| unit_name(&c.name)).collect();
    let mut arguments = vec!["enable", "--now"];
    arguments.extend(names.iter().map(String::as_str));
    systemctl(&arguments)?;
    if changed {
        let mut arguments = vec!["restart"];
        arguments.extend(names.iter().map(String::as_str));
        systemctl(&arguments)?;
    }
    Ok(changed)
}

/// Stops and disables the units.
pub fn stop() -> Result<()> {
    let mut names = units()?;
    names.reverse();
    if names.is_empty() {
        return Ok(());
    }
    let mut arguments = vec!["disable", "--now"];
    arguments.extend(names.iter().map(String::as_str));
    systemctl(&arguments)
}

/// Removes the units.
pub fn remove(layout: &Layout) -> Result<()> {
    if !in_charge(layout) {
        return Ok(());
    }
    for name in units()? {
        remove_unit(&name)?;
    }
    systemctl(&["daemon-reload"])
}

/// The units that are there, in the order of start: the cluster's first, then those of further nodes.
fn units() -> Result<Vec<String>> {
    let mut names: Vec<String> = NAMES
        .iter()
        .map(|name| unit_name(name))
        .filter(|name| Path::new(UNITS).join(name).exists())
        .collect();
    let mut further = Vec::new();
    for entry in std::fs::read_dir(UNITS).context("cannot read the folder of units")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("keelson-") && name.ends_with(".service") && !names.contains(&name) {
            further.push(name);
        }
    }
    further.sort();
    names.extend(further);
    Ok(names)
}

fn remove_unit(name: &str) -> Result<()> {
    match std::fs::remove_file(Path::new(UNITS).join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove a unit")
        }
        _ => Ok(()),
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new("systemctl")
        .args(arguments)
        .output()
        .context("cannot run systemctl")?;
    if !output.status.success() {
        bail!(
            "systemctl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_hardened_and_ordered() {
        let component = |name: &str| Component {
            name: name.into(),
            program: format!("/usr/local/bin/{name}").into(),
            arguments: vec!["--a=b%c".into()],
            environment: Vec::new(),
        };
        let text = unit(&component("kube-scheduler"));
        assert!(
            text.contains("NoNewPrivileges=yes")
                && text.contains("After=network-online.target keelson-kube-apiserver.service"),
            "{text}"
        );
        assert!(
            text.contains("--a=b%%c"),
            "systemd expands percent signs: {text}"
        );
        let text = unit(&component("kubelet"));
        assert!(
            text.contains("KillMode=process"),
            "containers outlive the kubelet: {text}"
        );
    }
}
