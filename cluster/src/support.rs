//! `keelson support`: one archive with what a bug report needs and nothing that is secret: logs, command lines, versions, the
//! state of objects (Secrets left out, environment and data of ConfigMaps too).

use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::layout::Layout;

/// Bytes of each log's end that are taken.
const LOG_TAIL: usize = 1 << 20;

/// Writes the bundle.
pub async fn run(layout: &Layout, target: &Path) -> Result<()> {
    let file = std::fs::File::create(target)
        .with_context(|| format!("cannot make {}", target.display()))?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let mut add = |name: String, content: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content)?;
        Ok(())
    };
    add(
        "version".into(),
        format!("{}\n", keelson_daemon::version::LONG).as_bytes(),
    )?;
    for (name, path) in [
        ("kernel", "/proc/version"),
        ("mounts", "/proc/self/mountinfo"),
        ("memory", "/proc/meminfo"),
        ("cgroups", "/proc/cgroups"),
    ] {
        add(
            format!("host/{name}"),
            &std::fs::read(path).unwrap_or_default(),
        )?;
    }
    for entry in std::fs::read_dir(layout.logs())
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") {
            let content = std::fs::read(&path)?;
            let tail = &content[content.len().saturating_sub(LOG_TAIL)..];
            add(
                format!("logs/{}", entry.file_name().to_string_lossy()),
                tail,
            )?;
        }
    }
    match crate::status::nodes(layout).await {
        Ok(nodes) => add("nodes".into(), format!("{nodes:?}\n").as_bytes())?,
        Err(error) => add("nodes".into(), format!("{error:#}\n").as_bytes())?,
    }
    if let Ok(client) = crate::up::client(layout).await {
        for (name, path) in [
            ("events", "/api/v1/events"),
            ("leases", "/apis/coordination.k8s.io/v1/leases"),
        ] {
            let request = http::Request::get(path).body(Vec::new())?;
            match client.request_text(request).await {
                Ok(text) => add(format!("objects/{name}.json"), text.as_bytes())?,
                Err(error) => add(
                    format!("objects/{name}.error"),
                    error.to_string().as_bytes(),
                )?,
            }
        }
    }
    archive.into_inner()?.finish()?;
    println!("{}", target.display());
    Ok(())
}
