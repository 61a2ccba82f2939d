//! Kubeconfig files: made for a daemon or the administrator, and merged into a user's own without touching the rest.

use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};

use crate::{PkiError, file};

/// What a kubeconfig says.
#[derive(Debug, Clone)]
pub struct Kubeconfig<'a> {
    /// Name of cluster and context.
    pub cluster: &'a str,
    /// Name of the user entry.
    pub user: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    /// PEM of the cluster's authority.
    pub authority: &'a str,
    /// Client certificate file.
    pub certificate: &'a Path,
    /// Client key file.
    pub key: &'a Path,
}

impl Kubeconfig<'_> {
    /// The document with everything embedded (kubeconfigs are YAML, and JSON is YAML).
    pub fn embedded(&self) -> Result<Value, PkiError> {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let certificate = encode(&file::read(self.certificate)?);
        let key = encode(&file::read(self.key)?);
        Ok(self.document(json!({"client-certificate-data": certificate, "client-key-data": key})))
    }

    /// The document that names the certificate files, so that a rotated certificate is found.
    pub fn by_reference(&self) -> Value {
        self.document(json!({"client-certificate": self.certificate, "client-key": self.key}))
    }

    fn document(&self, user: Value) -> Value {
        let authority = base64::engine::general_purpose::STANDARD.encode(self.authority);
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.cluster, "cluster": {"certificate-authority-data": authority, "server": self.server}}],
            "contexts": [{"name": self.cluster, "context": {"cluster": self.cluster, "user": self.user}}],
            "current-context": self.cluster,
            "users": [{"name": self.user, "user": user}],
            "preferences": {},
        })
    }
}

/// Puts the clusters, contexts and users of `ours` into `theirs`, replacing entries of the same name only. The current
/// context becomes ours when `switch` is set or there was none. Returns whether anything changed.
pub fn merge(theirs: &mut Value, ours: &Value, switch: bool) -> bool {
    let before = theirs.clone();
    if !theirs.is_object() {
        *theirs = json!({"apiVersion": "v1", "kind": "Config", "preferences": {}});
    }
    for list in ["clusters", "contexts", "users"] {
        let wanted = ours[list].as_array().cloned().unwrap_or_default();
        if !theirs[list].is_array() {
            theirs[list] = json!([]);
        }
        let Some(entries) = theirs[list].as_array_mut() else {
            continue;
        };
        for entry in wanted {
            match entries.iter_mut().find(|e| e["name"] == entry["name"]) {
                Some(existing) => *existing = entry,
                None => entries.push(entry),
            }
        }
    }
    if switch
        || theirs["current-context"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    {
        theirs["current-context"] = ours["current-context"].clone();
    }
    *theirs != before
}

/// Takes the entries of `ours` out of `theirs` again. Returns whether anything changed.
pub fn unmerge(theirs: &mut Value, ours: &Value) -> bool {
    let before = theirs.clone();
    for list in ["clusters", "contexts", "users"] {
        let names: Vec<Value> = ours[list]
            .as_array()
            .into_iter()
            .flatten()
            .map(|e| e["name"].clone())
            .collect();
        if let Some(entries) = theirs[list].as_array_mut() {
            entries.retain(|e| !names.contains(&e["name"]));
        }
    }
    if theirs["current-context"] == ours["current-context"] {
        theirs["current-context"] = json!("");
    }
    *theirs != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        let dir = tempfile::tempdir().expect("tempdir");
        let (certificate, key) = (dir.path().join("c"), dir.path().join("k"));
        std::fs::write(&certificate, "C").expect("write");
        std::fs::write(&key, "K").expect("write");
        Kubeconfig {
            cluster: "keelson",
            user: "keelson-admin",
            server: "https://127.0.0.1:6443",
            authority: "A",
            certificate: &certificate,
            key: &key,
        }
        .embedded()
        .expect("embed")
    }

    #[test]
    fn merging_leaves_the_others_alone() {
        let mut theirs = json!({"apiVersion": "v1", "kind": "Config", "current-context": "work",
            "clusters": [{"name": "work", "cluster": {"server": "https://w"}}], "contexts": [{"name": "work"}], "users": [{"name": "me"}], "extensions": []});
        let original = theirs.clone();
        assert!(merge(&mut theirs, &ours(), false));
        assert_eq!(theirs["current-context"], "work");
        assert_eq!(theirs["clusters"][0], original["clusters"][0]);
        assert_eq!(theirs["clusters"][1]["name"], "keelson");
        assert!(
            !merge(&mut theirs, &ours(), false),
            "a second merge changes nothing"
        );
        assert!(unmerge(&mut theirs, &ours()));
        assert_eq!(theirs, original);
    }

    #[test]
    fn an_empty_file_gets_our_context() {
        let mut theirs = Value::Null;
        merge(&mut theirs, &ours(), false);
        assert_eq!(theirs["current-context"], "keelson");
        assert_eq!(theirs["users"][0]["user"]["client-key-data"], "Sw==");
    }
}
