//! The ConfigMap `kube-system/extension-apiserver-authentication`, from which aggregated API servers learn whom to believe.

use serde_json::{Value, json};

use super::Object;

/// What this server authenticates clients and front proxies by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authentication {
    /// `--client-ca-file`, PEM.
    pub client_ca: String,
    /// `--requestheader-client-ca-file`, PEM; empty where there is no front proxy.
    pub requestheader_ca: String,
    /// `--requestheader-allowed-names`.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefixes: Vec<String>,
}

/// The ConfigMap with this server's data added to what other servers wrote; `None` if nothing is missing.
pub fn config_map(own: &Authentication, existing: Option<&Value>) -> Option<Object> {
    let mut map = existing.cloned().unwrap_or_else(|| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}})
    });
    let old = |key: &str| {
        existing
            .and_then(|e| e["data"][key].as_str())
            .unwrap_or_default()
    };
    let mut data: Vec<(&str, String)> = Vec::new();
    let client = merge_pem(old("client-ca-file"), &own.client_ca);
    if !client.is_empty() {
        data.push(("client-ca-file", client));
    }
    let proxy = merge_pem(old("requestheader-client-ca-file"), &own.requestheader_ca);
    if !proxy.is_empty() {
        data.push(("requestheader-client-ca-file", proxy));
        for (key, list) in [
            ("requestheader-allowed-names", &own.allowed_names),
            ("requestheader-extra-headers-prefix", &own.extra_prefixes),
            ("requestheader-group-headers", &own.group_headers),
            ("requestheader-uid-headers", &own.uid_headers),
            ("requestheader-username-headers", &own.username_headers),
        ] {
            data.push((key, merge_list(old(key), list)));
        }
    }
    for (key, value) in data {
        map["data"][key] = json!(value);
    }
    (existing != Some(&map)).then_some(Object {
        resource: "configmaps",
        value: map,
    })
}

/// A JSON list with what is in either, each once.
fn merge_list(old: &str, own: &[String]) -> String {
    let mut all: Vec<String> = serde_json::from_str(old).unwrap_or_default();
    for name in own {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    json!(all).to_string()
}

/// The certificates of both bundles, each once.
fn merge_pem(old: &str, own: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all: Vec<&str> = Vec::new();
    for block in old
        .split_inclusive(END)
        .chain(own.split_inclusive(END))
        .map(str::trim)
    {
        if block.ends_with(END) && !all.contains(&block) {
            all.push(block);
        }
    }
    all.iter().map(|block| format!("{block}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn servers_add_to_each_other() {
        let own = Authentication {
            client_ca: pem("a"),
            requestheader_ca: pem("p"),
            username_headers: vec!["X-Remote-User".into()],
            ..Authentication::default()
        };
        let first = config_map(&own, None).unwrap().value;
        assert_eq!(first["data"]["client-ca-file"], pem("a"));
        assert_eq!(first["data"]["requestheader-allowed-names"], "[]");
        assert_eq!(config_map(&own, Some(&first)), None);
        let other = Authentication {
            client_ca: pem("b"),
            ..own
        };
        let both = config_map(&other, Some(&first)).unwrap().value;
        assert_eq!(both["data"]["client-ca-file"], pem("a") + &pem("b"));
        assert_eq!(
            both["data"]["requestheader-username-headers"],
            r#"["X-Remote-User"]"#
        );
    }
}
