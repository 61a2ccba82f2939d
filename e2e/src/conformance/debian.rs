//! Root file systems out of Debian packages: downloaded with everything they depend on and unpacked, nothing installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where packages of another release are taken from.
const MIRROR: &str = "http://deb.debian.org/debian";

/// A root file system with these packages of the machine's own release, made once: `folder/<name>`.
pub fn root(folder: &Path, name: &str, packages: &[&str]) -> Result<PathBuf> {
    root_of(folder, name, packages, None)
}

/// The same with packages of a release of Debian, by its code name.
pub fn root_of(
    folder: &Path,
    name: &str,
    packages: &[&str],
    release: Option<&str>,
) -> Result<PathBuf> {
    let target = folder.join(name);
    let mark = folder.join(format!("{name}.packages"));
    let wanted = format!("{} {}", release.unwrap_or_default(), packages.join(" "));
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == wanted) {
        return Ok(target);
    }
    if target.exists() {
        std::fs::remove_dir_all(&target)?;
    }
    let archives = folder.join(format!("{name}.archives"));
    std::fs::create_dir_all(archives.join("partial"))?;
    // To apt nothing is installed, so that it fetches what the packages depend on too.
    let status = folder.join("status");
    std::fs::write(&status, "")?;
    let sources = match release {
        Some(release) => other_release(folder, release)?,
        None => Vec::new(),
    };
    let mut download = Command::new("apt-get");
    download
        .args(&sources)
        .args([
            "install",
            "-y",
            "--no-install-recommends",
            "--download-only",
        ])
        .arg("-o")
        .arg(format!("Dir::State::status={}", status.display()))
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .args(["-o", "APT::Sandbox::User=root"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if run(&mut download).is_err() {
        // The lists are missing, or older than what the mirror still has.
        run(Command::new("apt-get").args(&sources).arg("update"))?;
        run(&mut download)?;
    }
    std::fs::create_dir_all(&target)?;
    for entry in std::fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&target))?;
        }
    }
    std::fs::remove_dir_all(&archives)?;
    std::fs::write(&mark, wanted)?;
    Ok(target)
}

/// Options with which apt knows a release of Debian, and only that, with lists of its own.
fn other_release(folder: &Path, release: &str) -> Result<Vec<String>> {
    let own = folder.join(release);
    std::fs::create_dir_all(own.join("lists/partial"))?;
    let list = own.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(
        &list,
        format!("deb [signed-by={keys}] {MIRROR} {release} main\n"),
    )?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists={}", own.join("lists").display()),
        format!("Dir::Cache={}", own.display()),
        "APT::Sandbox::User=root".into(),
    ];
    Ok(options
        .into_iter()
        .flat_map(|option| ["-o".into(), option])
        .collect())
}

/// What an image needs of no package: documentation, translations, the package manager, Perl, Python.
pub fn superfluous(path: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "/usr/share/doc",
        "/usr/share/man",
        "/usr/share/locale",
        "/usr/share/info",
        "/usr/share/lintian",
        "/usr/share/perl",
        "/usr/share/zoneinfo",
        "/usr/share/bash-completion",
        "/usr/lib/x86_64-linux-gnu/perl",
        "/usr/lib/x86_64-linux-gnu/gconv",
        "/usr/lib/x86_64-linux-gnu/libperl",
        "/var/lib/dpkg",
        "/usr/bin/perl",
        "/usr/share/debconf",
        "/etc/passwd",
        "/etc/group",
    ];
    PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    ensure!(
        output.status.success(),
        "{shown}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
