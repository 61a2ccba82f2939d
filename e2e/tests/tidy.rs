//! The tree itself: every module says what it is for, files stay small, no names that say nothing, no paths of one machine.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines a source file may have.
const LINES_MOST: usize = 800;
/// Names of modules that say nothing about what is in them.
const FORBIDDEN: &[&str] = &["utils", "util", "helpers", "helper", "misc", "common"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_path_buf()
}

/// Files that git knows; in a tree without git, nothing is checked, and loudly.
fn files(suffix: &str) -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter(|name| name.ends_with(suffix))
        .map(|name| root().join(name))
        .filter(|path| path.exists())
        .collect()
}

fn complain(title: &str, found: &[String]) {
    assert!(found.is_empty(), "{title}:\n  {}", found.join("\n  "));
}

#[test]
fn every_module_says_what_it_is_for() {
    let found: Vec<String> = files(".rs")
        .iter()
        .filter(|path| {
            !std::fs::read_to_string(path)
                .expect("read")
                .trim_start()
                .starts_with("//!")
        })
        .map(|path| path.display().to_string())
        .collect();
    complain("modules that do not open with //!", &found);
}

#[test]
fn files_stay_small() {
    let found: Vec<String> = files(".rs")
        .iter()
        .map(|path| {
            (
                path,
                std::fs::read_to_string(path).expect("read").lines().count(),
            )
        })
        .filter(|(_, lines)| *lines > LINES_MOST)
        .map(|(path, lines)| format!("{} {lines}", path.display()))
        .collect();
    complain(
        &format!("files of more than {LINES_MOST} lines, each asking to be two"),
        &found,
    );
}

#[test]
fn names_say_something() {
    let found: Vec<String> = files(".rs")
        .iter()
        .filter(|path| {
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let folder = path
                .parent()
                .and_then(Path::file_name)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            FORBIDDEN.contains(&stem.as_str())
                || (FORBIDDEN.contains(&folder.as_str())
                    && path.parent() != Some(&root().join("common")))
        })
        .map(|path| path.display().to_string())
        .collect();
    complain("modules whose names say nothing", &found);
}

#[test]
fn nothing_is_left_undone_or_tied_to_one_machine() {
    // Written in two parts, so that this file does not find itself.
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("/work/", "wt"),
        concat!("/work/", "main"),
    ];
    let mut found = Vec::new();
    for path in files(".rs")
        .into_iter()
        .chain(files(".toml"))
        .chain(files(".md"))
        .chain(files("Makefile"))
    {
        let text = std::fs::read_to_string(&path).expect("read");
        found.extend(
            words
                .iter()
                .filter(|word| text.contains(**word))
                .map(|word| format!("{}: {word}", path.display())),
        );
    }
    complain("left undone, or tied to one machine", &found);
}
