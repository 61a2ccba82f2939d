//! The keys that both servers left in etcd: the same ones, each of a form that `e2e/diff/etcd-keys.tsv` knows.

use std::collections::BTreeSet;

use anyhow::Result;
use etcd_client::{Client, GetOptions};
use regex::Regex;

/// The table of keys.
const TABLE: &str = include_str!("../../diff/etcd-keys.tsv");

/// Every key under `/registry`.
async fn all(etcd: &str) -> Result<BTreeSet<String>> {
    let mut client = Client::connect([etcd], None).await?;
    let options = GetOptions::new().with_prefix().with_keys_only();
    let answer = client.get("/registry/", Some(options)).await?;
    Ok(answer
        .kvs()
        .iter()
        .map(|kv| String::from_utf8_lossy(kv.key()).into_owned())
        .collect())
}

/// The forms of keys in the table, `<name>` and the like made into patterns.
fn forms() -> Result<Vec<Regex>> {
    let place = Regex::new("<[^>]+>")?;
    TABLE
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t').skip(4);
            let (prefix, key) = (columns.next()?, columns.next()?);
            let key = if key.starts_with("/registry") {
                key
            } else {
                prefix
            };
            key.starts_with("/registry").then(|| key.to_owned())
        })
        .map(|key| {
            let pattern = place
                .replace_all(&key.replace('.', r"\."), "[^/]+")
                .replace("[/[^/]+]", "(/[^/]+)?");
            Ok(Regex::new(&format!("^{pattern}$"))?)
        })
        .collect()
}

/// Keys with what is random in them taken out.
fn normalised(keys: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let patterns = [
        (Regex::new(r"^(/registry/ipaddresses/).*")?, "$1<address>"),
        (
            Regex::new(
                r"^(/registry/leases/kube-system/apiserver-|/registry/peerserverleases/).*",
            )?,
            "$1<id>",
        ),
        (
            Regex::new(r"^(/registry/(?:[a-z.]+/)+(?:[^/]+/)?generated-)[a-z0-9]{5}$")?,
            "$1<random>",
        ),
    ];
    Ok(keys
        .iter()
        .map(|key| {
            patterns.iter().fold(key.clone(), |key, (pattern, with)| {
                pattern.replace(&key, *with).into_owned()
            })
        })
        .collect())
}

/// What is wrong with the keys: one line each.
pub async fn compare(upstream: &str, ours: &str) -> Result<Vec<String>> {
    let (theirs, our) = (all(upstream).await?, all(ours).await?);
    let forms = forms()?;
    let mut wrong: Vec<String> = our
        .iter()
        .filter(|key| !forms.iter().any(|form| form.is_match(key)))
        .map(|key| format!("ours, of no known form: {key}"))
        .collect();
    let (theirs, our) = (normalised(&theirs)?, normalised(&our)?);
    wrong.extend(
        theirs
            .difference(&our)
            .map(|key| format!("only upstream's: {key}")),
    );
    wrong.extend(
        our.difference(&theirs)
            .map(|key| format!("only ours: {key}")),
    );
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_keys_are_read_off_the_table() {
        let forms = forms().unwrap();
        let known = |key: &str| forms.iter().any(|f| f.is_match(key));
        assert!(known("/registry/pods/default/a"));
        assert!(known("/registry/services/specs/default/a"));
        assert!(known("/registry/minions/n1"));
        assert!(known("/registry/ranges/servicenodeports"));
        assert!(known("/registry/example.com/widgets/default/a"));
        assert!(!known("/registry/nodes"));
    }
}
