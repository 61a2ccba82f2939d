//! The images that upstream's tests use, assembled here: one function an image, one row in [`all`].
//!
//! They hold what the tests look at, under the names that the tests have for them; none is a copy of upstream's image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use keelson::assembly::{File, Recipe};

use super::debian::{self, run};

/// Where upstream's test images are named.
const E2E: &str = "registry.k8s.io/e2e-test-images";

/// Where things are found and made.
#[derive(Debug)]
pub struct Places {
    /// Upstream's programs, built from their modules.
    pub upstream: PathBuf,
    /// Folder for what is made.
    pub work: PathBuf,
    /// Sources of upstream's test images, for the files that the tests compare with.
    pub sources: PathBuf,
    /// Sources of our own small programs.
    pub programs: PathBuf,
}

/// Makes one image's recipe.
type Make = fn(&Places) -> Result<Recipe>;

/// All images: names, how.
pub fn all() -> Vec<(Vec<String>, Make)> {
    let e2e = |name: &str| format!("{E2E}/{name}");
    vec![
        (vec![e2e("agnhost:2.63.0")], agnhost),
        (vec![e2e("agnhost:2.55")], agnhost_before),
        (
            vec![e2e("busybox:1.37.0-1"), e2e("busybox:1.36.1-1")],
            busybox,
        ),
        (vec![e2e("nginx:1.15-4")], nginx),
        (vec![e2e("nginx:1.27-0")], nginx_new),
        (vec!["registry.k8s.io/pause:3.10.2".into()], pause),
        (vec![e2e("glibc-dns-testing:2.0.0")], dns_testing),
        (vec![e2e("kitten:1.8")], kitten),
        (vec![e2e("nautilus:1.8")], nautilus),
        (vec![e2e("nonewprivs:1.4")], nonewprivs),
        (vec![e2e("nonroot:1.5")], nonroot),
        (vec![e2e("sample-apiserver:1.29.2")], sample_apiserver),
        (vec!["registry.k8s.io/etcd:3.6.8-0".into()], etcd),
    ]
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn content(recipe: &mut Recipe, path: &str, text: &str) {
    let file = File::Content(text.as_bytes().to_vec(), 0o644);
    recipe.files.push((path.into(), file));
}

fn link(recipe: &mut Recipe, path: &str, target: &str) {
    recipe.files.retain(|(have, _)| have != path);
    recipe.files.push((path.into(), File::Link(target.into())));
}

fn copy(recipe: &mut Recipe, path: &str, source: PathBuf, mode: u32) {
    recipe.files.push((path.into(), File::Copy(source, mode)));
}

/// A recipe with everything of these packages and bash as its shell: dash drops environment names that the tests use.
fn debian_image(places: &Places, name: &str, packages: &[&str]) -> Result<Recipe> {
    let root = debian::root(&places.work.join("debian"), name, packages)?;
    let mut recipe = Recipe::default();
    recipe.tree(&root, &debian::superfluous)?;
    if root.join("bin/bash").exists() {
        link(&mut recipe, "/bin/sh", "bash");
    }
    if !root.join("tmp").exists() {
        recipe.files.push(("/tmp".into(), File::Folder(0o1777)));
    }
    Ok(recipe)
}

fn accounts(recipe: &mut Recipe, more_users: &str, more_groups: &str) {
    content(
        recipe,
        "/etc/passwd",
        &format!(
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n{more_users}"
        ),
    );
    content(
        recipe,
        "/etc/group",
        &format!("root:x:0:\nnogroup:x:65534:\n{more_groups}"),
    );
}

fn tools(places: &Places) -> Result<Recipe> {
    let packages = [
        "bash",
        "coreutils",
        "grep",
        "sed",
        "mawk",
        "findutils",
        "tar",
        "bind9-dnsutils",
        "curl",
        "netcat-openbsd",
        "iproute2",
        "iperf",
        "util-linux",
        "mount",
        "libc-bin",
        "hostname",
        "procps",
        "netbase",
    ];
    let mut recipe = debian_image(places, "tools", &packages)?;
    // Debian's alternatives, which only an installation would make.
    link(&mut recipe, "/bin/nc", "nc.openbsd");
    link(&mut recipe, "/usr/bin/awk", "mawk");
    accounts(
        &mut recipe,
        "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
        "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
    );
    Ok(recipe)
}

fn agnhost(places: &Places) -> Result<Recipe> {
    let mut recipe = tools(places)?;
    let sources = places.sources.join("agnhost");
    copy(
        &mut recipe,
        "/agnhost",
        places.upstream.join("agnhost"),
        0o755,
    );
    link(&mut recipe, "/agnhost-2", "agnhost");
    for name in ["localhost.crt", "localhost.key"] {
        let file = sources.join("porter").join(name);
        copy(&mut recipe, &format!("/{name}"), file, 0o644);
    }
    link(&mut recipe, "/usr/local/bin/iperf", "/usr/bin/iperf");
    recipe.files.push(("/uploads".into(), File::Folder(0o755)));
    recipe
        .files
        .push(("/var/registry".into(), File::Folder(0o755)));
    recipe.entrypoint = strings(&["/agnhost"]);
    recipe.command = strings(&["pause"]);
    recipe.ports = strings(&["80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp"]);
    Ok(recipe)
}

fn agnhost_before(places: &Places) -> Result<Recipe> {
    let mut recipe = agnhost(places)?;
    // Another image with the same content, as upstream's older one is to the tests.
    recipe.environment = strings(&["AGNHOST=2.55"]);
    Ok(recipe)
}

/// Busybox out of its own sources, linked with the machine's C library.
///
/// Not Debian's: its shell drops environment names such as `data-1`, which tests look for, and its static build crashes when it
/// resolves a name, since glibc loads NSS at run time. Another shell won't do: tests know the words of busybox's.
fn busybox_program(places: &Places) -> Result<PathBuf> {
    let folder = debian::source(&places.work.join("debian"), "trixie", "busybox")?;
    let program = folder.join("busybox");
    if program.exists() {
        return Ok(program);
    }
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.current_dir(&folder).arg(target);
        command
    };
    run(&mut make("defconfig"))?;
    let file = folder.join(".config");
    // Traffic control doesn't build with recent kernels' headers, and nobody needs it.
    let config = std::fs::read_to_string(&file)?.replace("CONFIG_TC=y", "CONFIG_TC=n");
    std::fs::write(&file, config)?;
    run(&mut make("silentoldconfig"))?;
    run(make("busybox").arg("-j2"))?;
    Ok(program)
}

fn busybox(places: &Places) -> Result<Recipe> {
    let program = busybox_program(places)?;
    let packages = ["base-files", "libc6", "libcrypt1", "libc-bin", "netbase"];
    let mut recipe = debian_image(places, "libraries", &packages)?;
    let list = run(Command::new(&program).arg("--list"))?;
    copy(&mut recipe, "/usr/bin/busybox", program, 0o755);
    let present: Vec<String> = recipe.files.iter().map(|(path, _)| path.clone()).collect();
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        for folder in ["bin", "usr/bin"] {
            let path = format!("/{folder}/{applet}");
            if !present.contains(&path) {
                let target = File::Link("/usr/bin/busybox".into());
                recipe.files.push((path, target));
            }
        }
    }
    accounts(&mut recipe, "", "");
    recipe.command = strings(&["sh"]);
    Ok(recipe)
}

fn nginx(places: &Places) -> Result<Recipe> {
    let mut recipe = debian_image(places, "nginx", &["nginx-core", "bash", "coreutils"])?;
    recipe
        .files
        .retain(|(path, _)| path != "/etc/nginx/nginx.conf");
    content(
        &mut recipe,
        "/etc/nginx/nginx.conf",
        "user nobody nogroup;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr;\nevents {}\nhttp {\n  access_log /dev/stdout;\n  server {\n    listen 80;\n    root /usr/share/nginx/html;\n  }\n}\n",
    );
    for folder in ["/var/log/nginx", "/var/lib/nginx", "/run"] {
        if !recipe.files.iter().any(|(path, _)| path == folder) {
            recipe.files.push((folder.into(), File::Folder(0o755)));
        }
    }
    accounts(&mut recipe, "", "");
    recipe.command = strings(&["nginx", "-g", "daemon off;"]);
    recipe.ports = strings(&["80/tcp"]);
    Ok(recipe)
}

fn nginx_new(places: &Places) -> Result<Recipe> {
    let mut recipe = nginx(places)?;
    recipe.environment = strings(&["NGINX=1.27"]);
    Ok(recipe)
}

fn dns_testing(places: &Places) -> Result<Recipe> {
    tools(places)
}

/// One of our own small programs, linked statically.
fn program(places: &Places, name: &str) -> Result<PathBuf> {
    let target = places.work.join(name);
    let source = places.programs.join(format!("{name}.rs"));
    run(Command::new("rustc")
        .args(["--edition=2024", "-Copt-level=2", "-Cstrip=symbols"])
        .arg("-Ctarget-feature=+crt-static")
        .arg("-o")
        .args([&target, &source]))
    .with_context(|| format!("cannot build {name}"))?;
    Ok(target)
}

fn pause(places: &Places) -> Result<Recipe> {
    let mut recipe = Recipe {
        entrypoint: strings(&["/pause"]),
        user: "65535:65535".into(),
        ..Recipe::default()
    };
    copy(&mut recipe, "/pause", program(places, "pause")?, 0o755);
    Ok(recipe)
}

fn nonewprivs(places: &Places) -> Result<Recipe> {
    let mut recipe = debian_image(places, "shell", &["bash", "coreutils"])?;
    accounts(&mut recipe, "", "");
    let program = program(places, "nnp")?;
    copy(&mut recipe, "/usr/local/bin/nnp", program, 0o6755);
    recipe.command = strings(&["nnp"]);
    Ok(recipe)
}

fn nonroot(places: &Places) -> Result<Recipe> {
    let mut recipe = debian_image(places, "shell", &["bash", "coreutils"])?;
    accounts(&mut recipe, "", "");
    recipe.user = "1234".into();
    Ok(recipe)
}

/// agnhost as a web server of a picture and of the words about it.
fn picture(places: &Places, name: &str) -> Result<Recipe> {
    let mut recipe = agnhost(places)?;
    let html = places.sources.join(name).join("html");
    for file in [format!("{name}.jpg"), "data.json".into()] {
        copy(&mut recipe, &format!("/{file}"), html.join(&file), 0o644);
    }
    // A test that mounts the image as a volume reads what upstream's is built on.
    recipe.files.retain(|(path, _)| path != "/etc/os-release");
    content(
        &mut recipe,
        "/etc/os-release",
        "NAME=\"Keelson test image\"\nPRETTY_NAME=\"Keelson test image, in place of one on Alpine Linux\"\nID=keelson-test\n",
    );
    recipe.command = strings(&["test-webserver"]);
    Ok(recipe)
}

fn kitten(places: &Places) -> Result<Recipe> {
    picture(places, "kitten")
}

fn nautilus(places: &Places) -> Result<Recipe> {
    picture(places, "nautilus")
}

fn sample_apiserver(places: &Places) -> Result<Recipe> {
    let mut recipe = Recipe {
        entrypoint: strings(&["/sample-apiserver"]),
        ..Recipe::default()
    };
    let program = places.upstream.join("sample-apiserver");
    copy(&mut recipe, "/sample-apiserver", program, 0o755);
    recipe.files.push(("/tmp".into(), File::Folder(0o1777)));
    accounts(&mut recipe, "", "");
    Ok(recipe)
}

fn etcd(places: &Places) -> Result<Recipe> {
    let mut recipe = debian_image(places, "etcd", &["etcd-server", "bash"])?;
    accounts(&mut recipe, "", "");
    link(&mut recipe, "/usr/local/bin/etcd", "/usr/bin/etcd");
    recipe.command = strings(&["etcd"]);
    Ok(recipe)
}

/// Changes when what the images are made of does: these recipes and upstream's programs.
pub fn stamp(places: &Places) -> Result<String> {
    let recipes = [include_str!("images.rs"), include_str!("debian.rs")].concat();
    let mut stamp = format!("{}\n", keelson::assembly::digest(recipes.as_bytes()));
    for name in ["agnhost", "sample-apiserver"] {
        let file = places.upstream.join(name);
        let metadata =
            std::fs::metadata(&file).with_context(|| format!("{} is missing", file.display()))?;
        stamp.push_str(&format!(
            "{name} {} {:?}\n",
            metadata.len(),
            metadata.modified()?
        ));
    }
    Ok(stamp)
}

/// Where the files are that upstream's test images are made of: in the module that e2e.test is built from.
pub fn sources(module: &Path) -> Result<PathBuf> {
    let folder = run(Command::new("go")
        .args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"])
        .current_dir(module))?;
    Ok(Path::new(folder.trim()).join("test/images"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<String> = all().into_iter().flat_map(|(names, _)| names).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
        assert!(names.iter().all(|n| n.starts_with("registry.k8s.io/")));
    }
}
