//! Termination messages: what a container leaves for its successor's reader.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

/// Most bytes of a message from the file.
const MAX_FILE: u64 = 4096;
/// Most bytes and lines of a message from the log.
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// The message of an ended container: its file, or the end of its log if it asked for that and failed.
pub fn read(container: &Container, file: &Path, log: &Path, exit_code: i32) -> String {
    let from_file = file_head(file);
    let fall_back =
        container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if from_file.is_empty() && fall_back && exit_code != 0 {
        log_tail(log)
    } else {
        from_file
    }
}

fn file_head(path: &Path) -> String {
    // The container could have put a link or a FIFO in its place.
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path);
    let Ok(file) = opened else {
        return String::new();
    };
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    match file.take(MAX_FILE).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!(
            "Error on reading termination log {}: {error}",
            path.display()
        ),
    }
}

/// The last lines of a CRI-format log, without their prefixes.
fn log_tail(path: &Path) -> String {
    use std::io::{Seek, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    // Prefixes come on top of the text: read more than is kept.
    let start = length.saturating_sub((MAX_LOG + MAX_LOG_LINES * 64) as u64);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if start > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let keep = lines.len().saturating_sub(MAX_LOG_LINES);
    let mut out = String::new();
    for line in &lines[keep..] {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
        let Some(rest) = rest else { continue };
        out.push_str(if tag == Some("P") {
            rest.trim_end_matches('\n')
        } else {
            rest
        });
    }
    let mut cut = out.len().saturating_sub(MAX_LOG);
    while !out.is_char_boundary(cut) {
        cut += 1;
    }
    out.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_first_then_log() {
        let dir = std::env::temp_dir().join(format!("keelson-termination-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, log) = (dir.join("message"), dir.join("0.log"));
        std::fs::write(&file, "").unwrap();
        std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n").unwrap();
        let container = Container {
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Container::default()
        };
        assert_eq!(read(&container, &file, &log, 1), "one\ntwo\n");
        assert_eq!(read(&container, &file, &log, 0), "");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(read(&container, &file, &log, 1).len(), 4096);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(
            read(&Container::default(), &file, &log, 1),
            "",
            "never follows a link"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
