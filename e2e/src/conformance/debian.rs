//! Root file systems out of Debian packages: downloaded with everything they depend on and unpacked, nothing installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where packages of another release are taken from.
const MIRROR: &str = "http://deb.debian.org/debian";

/// A root file system with these packages of the machine's own release, made once: `folder/<name>`.
pub fn root(folder: &Path, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let target = folder.join(name);
    let mark = folder.join(format!("{name}.packages"));
    let wanted = packages.join(" ");
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
    let mut download = Command::new("apt-get");
    download
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
        run(Command::new("apt-get").arg("update"))?;
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

/// The upstream sources of a package as a release of Debian has them, unpacked, without Debian's changes: `folder/<package>-source`.
pub fn source(folder: &Path, release: &str, package: &str) -> Result<PathBuf> {
    let target = folder.join(format!("{package}-source"));
    if target.exists() {
        return Ok(target);
    }
    let own = folder.join(release);
    std::fs::create_dir_all(own.join("lists/partial"))?;
    let list = own.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(
        &list,
        format!("deb-src [signed-by={keys}] {MIRROR} {release} main\n"),
    )?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists={}", own.join("lists").display()),
        format!("Dir::Cache={}", own.display()),
        "APT::Sandbox::User=root".into(),
    ];
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(&own);
        for option in &options {
            command.args(["-o", option]);
        }
        command
    };
    run(apt().arg("update"))?;
    // apt checks the archives against the release's signed lists.
    run(apt().args(["source", "--download-only", package]))?;
    let unpacked = folder.join(format!("{package}-unpacked"));
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked)?;
    }
    std::fs::create_dir_all(&unpacked)?;
    let archive = std::fs::read_dir(&own)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| {
                    name.starts_with(&format!("{package}_"))
                        && name.contains(".orig.tar.")
                        && !name.ends_with(".asc")
                })
        })
        .with_context(|| format!("apt fetched no sources of {package}"))?;
    run(Command::new("tar")
        .args(["--strip-components=1", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&unpacked))?;
    std::fs::rename(&unpacked, &target)?;
    Ok(target)
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
