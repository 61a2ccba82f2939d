//! Validation of probes and lifecycle hooks.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::Access;
use crate::meta::faults;
use crate::validation::{not_negative, one_of};

/// The three probes of a container.
pub(super) fn probes(
    errors: &mut ErrorList,
    container: &Value,
    grace: Option<i64>,
    path: &Path<'_>,
) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"]
        .into_iter()
        .filter(|n| container.has(n))
    {
        let (probe, at) = (container.part(name), path.child(name));
        handler(
            errors,
            probe,
            grace,
            &["exec", "httpGet", "tcpSocket", "grpc"],
            &at,
        );
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            not_negative(errors, probe, field, &at);
        }
        if let Some(seconds) = probe.int("terminationGracePeriodSeconds") {
            let here = at.child("terminationGracePeriodSeconds");
            if seconds <= 0 {
                errors.push(Error::invalid(&here, seconds, "must be greater than 0"));
            }
            if name == "readinessProbe" {
                errors.push(Error::invalid(
                    &here,
                    seconds,
                    "must not be set for readinessProbes",
                ));
            }
        }
        let threshold = probe.number("successThreshold");
        if name != "readinessProbe" && threshold != 1 {
            errors.push(Error::invalid(
                &at.child("successThreshold"),
                threshold,
                "must be 1",
            ));
        }
    }
}

/// The hooks and the stop signal of a container.
pub(super) fn lifecycle(
    errors: &mut ErrorList,
    container: &Value,
    grace: Option<i64>,
    os: &str,
    path: &Path<'_>,
) {
    let (lifecycle, at) = (container.part("lifecycle"), path.child("lifecycle"));
    for hook in ["postStart", "preStop"]
        .into_iter()
        .filter(|h| lifecycle.has(h))
    {
        handler(
            errors,
            lifecycle.part(hook),
            grace,
            &["exec", "httpGet", "tcpSocket", "sleep"],
            &at.child(hook),
        );
    }
    if lifecycle.has("stopSignal") {
        stop_signal(
            errors,
            lifecycle.text("stopSignal"),
            os,
            &at.child("stopSignal"),
        );
    }
}

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn stop_signal(errors: &mut ErrorList, signal: &str, os: &str, path: &Path<'_>) {
    match os {
        "" => errors.push(Error::forbidden(
            path,
            "may not be set for containers with empty `spec.os.name`",
        )),
        "windows" => one_of(errors, signal, &["SIGKILL", "SIGTERM"], path),
        _ => one_of(errors, signal, SIGNALS, path),
    }
}

fn handler(
    errors: &mut ErrorList,
    handler: &Value,
    grace: Option<i64>,
    kinds: &[&str],
    path: &Path<'_>,
) {
    let mut first = true;
    for kind in kinds.iter().filter(|k| handler.has(k)) {
        let (action, at) = (handler.part(kind), path.child(kind));
        if !first {
            errors.push(Error::forbidden(
                &at,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        first = false;
        match *kind {
            "exec" => {
                if action.is_blank("command") {
                    errors.push(Error::required(&at.child("command"), ""));
                }
            }
            "httpGet" => http_get(errors, action, &at),
            "sleep" => {
                let seconds = action.number("seconds");
                if let Some(grace) = grace.filter(|g| !(0..=*g).contains(&seconds)) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errors.push(Error::invalid(&at, seconds, detail));
                }
            }
            _ => port(errors, action.part("port"), &at.child("port")),
        }
    }
    if first {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut ErrorList, action: &Value, path: &Path<'_>) {
    if action.text("path").is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    port(errors, action.part("port"), &path.child("port"));
    one_of(
        errors,
        action.text("scheme"),
        &["HTTP", "HTTPS"],
        &path.child("scheme"),
    );
    for header in action.items("httpHeaders") {
        let name = header.text("name");
        faults(
            errors,
            &path.child("httpHeaders"),
            name,
            names::http_header_name(name),
        );
    }
}

/// A port by number or name.
pub(crate) fn port(errors: &mut ErrorList, port: &Value, path: &Path<'_>) {
    if let Some(name) = port.as_str() {
        faults(errors, path, name, names::port_name(name));
    } else {
        let number = port.as_i64().unwrap_or_default();
        errors.extend(
            names::port_number(number)
                .into_iter()
                .map(|fault| Error::invalid(path, number, fault)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(container: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        let path = Path::new("c");
        probes(&mut errors, &container, Some(30), &path);
        lifecycle(&mut errors, &container, Some(30), "", &path);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn handlers_are_checked() {
        assert_eq!(
            of(json!({"livenessProbe": {"successThreshold": 1}})),
            ["c.livenessProbe: Required value: must specify a handler type"]
        );
        assert_eq!(
            of(
                json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}, "successThreshold": 2}})
            ),
            [
                "c.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "c.livenessProbe.successThreshold: Invalid value: 2: must be 1"
            ]
        );
        assert_eq!(
            of(
                json!({"readinessProbe": {"httpGet": {"path": "/", "port": 0, "scheme": "X"}, "periodSeconds": -1}})
            ),
            [
                "c.readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "c.readinessProbe.httpGet.scheme: Unsupported value: \"X\": supported values: \"HTTP\", \"HTTPS\"",
                "c.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        assert_eq!(
            of(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
            [
                "c.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"
            ]
        );
    }
}
