//! Image names: short names are Docker Hub's, a missing tag is `latest`.

use std::fmt;
use std::str::FromStr;

use oci_client::Reference;

use crate::error::{Error, Result};

/// A fully qualified image name: `registry/repository` with a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Name {
    /// Reads a name as written in a pod: `busybox` is `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self> {
        let reference = Reference::from_str(text).map_err(|error| Error::InvalidName {
            image: text.to_owned(),
            message: format!("failed to parse image name: {error}"),
        })?;
        let registry = match reference.registry() {
            "index.docker.io" => "docker.io",
            other => other,
        };
        let tag = reference.tag().map(str::to_owned);
        let digest = reference.digest().map(str::to_owned);
        // A name with a digest keeps only a tag that was really written.
        let tag = match &digest {
            Some(_)
                if !text
                    .split('@')
                    .next()
                    .unwrap_or(text)
                    .rsplit('/')
                    .next()
                    .unwrap_or("")
                    .contains(':') =>
            {
                None
            }
            _ => tag,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository: reference.repository().to_owned(),
            tag,
            digest,
        })
    }

    /// Host (and port) of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path below the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `registry/repository`.
    pub fn familiar(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, if the name has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// `registry/repository:tag`, if the name has a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.familiar()))
    }

    /// `registry/repository@digest`.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.familiar())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_docker_hubs() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            (
                "myregistry/api:1.5.0",
                "docker.io/myregistry/api:1.5.0".to_owned(),
            ),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest".to_owned()),
            (
                "registry.k8s.io/pause:3.10",
                "registry.k8s.io/pause:3.10".to_owned(),
            ),
            (
                &format!("busybox@{digest}"),
                format!("docker.io/library/busybox@{digest}"),
            ),
            (&format!("a.b/c:1@{digest}"), format!("a.b/c:1@{digest}")),
        ] {
            assert_eq!(Name::parse(text).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn bad_names_say_so() {
        for text in [
            "",
            "UPPER/Case",
            "a b",
            "busybox:",
            "x@sha256:123",
            &"a".repeat(300),
        ] {
            assert!(
                matches!(Name::parse(text), Err(Error::InvalidName { .. })),
                "{text}"
            );
        }
    }
}
