//! `keelson images`: import, list and remove images of the node's store; and the recipes of the images that the project assembles.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::assembly::Recipe;
use crate::layout::Layout;
use crate::nodes;

/// The example's image, under the guide's tag and a second one for `set image`.
pub const EXAMPLE: [&str; 2] = [
    "docker.io/myregistry/api:1.5.0",
    "docker.io/myregistry/api:1.6.0",
];
/// The cluster DNS image.
pub const DNS: &str = "docker.io/keelson/dns:v1.36.2";

fn store(layout: &Layout) -> Result<keelson_image::Store> {
    keelson_image::Store::open(layout.images()).context("cannot open the image store")
}

/// Imports an OCI layout or docker-archive tar into every node's store; prints what it held.
pub async fn import(layout: &Layout, archive: &Path) -> Result<()> {
    let further = nodes::known(layout);
    for node in std::iter::once(layout).chain(&further) {
        let images = store(node)?
            .import(archive, None)
            .await
            .with_context(|| format!("cannot import {}", archive.display()))?;
        for image in images.iter().filter(|_| node.is_first()) {
            println!("{}", image.tags.join(" "));
        }
    }
    Ok(())
}

/// Prints the images as a table.
pub fn list(layout: &Layout) -> Result<()> {
    println!("{:<56} {:<14} {:>10}", "IMAGE", "ID", "SIZE");
    for image in store(layout)?.list()? {
        let id = image.id.trim_start_matches("sha256:");
        let size = format!("{:.1}MB", image.size as f64 / 1e6);
        for tag in image
            .tags
            .iter()
            .map(String::as_str)
            .chain(image.tags.is_empty().then_some("<none>"))
        {
            println!("{tag:<56} {:<14} {size:>10}", &id[..id.len().min(12)]);
        }
    }
    Ok(())
}

/// Removes an image by name or id.
pub fn remove(layout: &Layout, reference: &str) -> Result<()> {
    store(layout)?
        .remove(reference)
        .with_context(|| format!("cannot remove {reference}"))
}

/// Whether the store holds this image.
pub fn present(layout: &Layout, reference: &str) -> Result<bool> {
    Ok(store(layout)?.find(reference)?.is_some())
}

/// Where the static busybox of Debian is.
fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .unwrap_or_else(|| "/bin/busybox".into())
}

/// The example's image: its static program with a shell beside it.
pub fn example_recipe(tag: &str, program: &Path) -> Result<Recipe> {
    let mut recipe = Recipe {
        names: vec![tag.into()],
        entrypoint: vec!["/api".into()],
        environment: vec![format!(
            "API_VERSION={}",
            tag.rsplit(':').next().unwrap_or_default()
        )],
        ports: vec!["3000/tcp".into()],
        user: "65534:65534".into(),
        ..Recipe::default()
    };
    recipe.users();
    recipe.busybox(&busybox())?;
    recipe.files.push((
        "/api".into(),
        crate::assembly::File::Copy(program.into(), 0o755),
    ));
    Ok(recipe)
}

/// The DNS image: our daemon with the libraries it is linked with.
pub fn dns_recipe(program: &Path) -> Result<Recipe> {
    let mut recipe = Recipe {
        names: vec![DNS.into()],
        entrypoint: vec!["/keelson-dns".into()],
        ports: vec!["53/udp".into(), "53/tcp".into()],
        user: "65534:65534".into(),
        ..Recipe::default()
    };
    recipe.users();
    recipe.program("/keelson-dns", program)?;
    Ok(recipe)
}

/// Does [`ensure`] for every node.
pub async fn ensure_all(nodes: &[Layout], programs: &Path) -> Result<bool> {
    let mut changed = false;
    for node in nodes {
        changed |= ensure(node, programs).await?;
    }
    Ok(changed)
}

/// Assembles and imports the images that a node needs, unless the store holds them made from the same programs.
/// Returns whether anything was imported.
pub async fn ensure(layout: &Layout, programs: &Path) -> Result<bool> {
    let mut changed = false;
    let example = programs.join("example-api");
    let dns = programs.join("keelson-dns");
    let mut recipes = vec![(DNS, dns.clone(), dns_recipe(&dns)?)];
    for tag in EXAMPLE {
        recipes.push((tag, example.clone(), example_recipe(tag, &example)?));
    }
    for (tag, program, recipe) in recipes {
        // The program's stamp tells a rebuilt image from the one that was imported.
        let metadata = std::fs::metadata(&program)
            .with_context(|| format!("{} is missing; run: make build", program.display()))?;
        let stamp = format!("{} {:?}", metadata.len(), metadata.modified().ok());
        let mark = layout
            .state()
            .join("imported")
            .join(tag.replace(['/', ':'], "_"));
        if std::fs::read_to_string(&mark).is_ok_and(|old| old == stamp) && present(layout, tag)? {
            continue;
        }
        let archive = layout.state().join("import.tar");
        recipe.write(&archive)?;
        store(layout)?
            .import(&archive, None)
            .await
            .with_context(|| format!("cannot import {tag}"))?;
        std::fs::remove_file(&archive)?;
        keelson_pki::file::write(&mark, stamp.as_bytes(), 0o644)?;
        changed = true;
    }
    Ok(changed)
}
