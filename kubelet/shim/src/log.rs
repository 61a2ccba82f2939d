//! Container logs in CRI's format: `<time> <stream> <F|P> <line>`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::clock;

/// Lines longer than this are written in parts.
const MAX_LINE: usize = 16 << 10;

/// A container's log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    /// Opens the file for appending, making it and its directory.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut log = Self {
            path: path.to_owned(),
            file: None,
        };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file anew after it was rotated.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&self.path)?;
        self.file = Some(file);
        Ok(())
    }

    /// Appends entries. A full disk loses log lines; it never stops the container.
    fn append(&mut self, entries: &[u8]) {
        if let Some(file) = &mut self.file
            && !entries.is_empty()
            && let Err(error) = file.write_all(entries)
        {
            eprintln!("cannot write {}: {error}", self.path.display());
        }
    }
}

/// Splits one stream into lines.
#[derive(Debug)]
pub struct Splitter {
    stream: &'static str,
    pending: Vec<u8>,
}

impl Splitter {
    /// For `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Takes what was read and writes the lines that are complete.
    pub fn feed(&mut self, data: &[u8], log: &mut Log) {
        let mut entries = Vec::with_capacity(data.len() + 64);
        let time = clock::now();
        self.pending.extend_from_slice(data);
        let mut start = 0;
        loop {
            let rest = &self.pending[start..];
            let window = &rest[..rest.len().min(MAX_LINE + 1)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                entry(&mut entries, &time, self.stream, b'F', &rest[..end]);
                start += end + 1;
            } else if rest.len() > MAX_LINE {
                entry(&mut entries, &time, self.stream, b'P', &rest[..MAX_LINE]);
                start += MAX_LINE;
            } else {
                break;
            }
        }
        self.pending.drain(..start);
        log.append(&entries);
    }

    /// Writes what is left without a newline: part of a line, so that readers add none either.
    pub fn finish(&mut self, log: &mut Log) {
        if !self.pending.is_empty() {
            let mut entries = Vec::new();
            entry(
                &mut entries,
                &clock::now(),
                self.stream,
                b'P',
                &std::mem::take(&mut self.pending),
            );
            log.append(&entries);
        }
    }
}

fn entry(out: &mut Vec<u8>, time: &str, stream: &str, tag: u8, line: &[u8]) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(feeds: &[&[u8]]) -> Vec<(String, usize)> {
        let path = std::env::temp_dir().join(format!(
            "keelson-log-{}-{}",
            std::process::id(),
            feeds.len()
        ));
        let _ = std::fs::remove_file(&path);
        let mut log = Log::open(&path).unwrap();
        let mut splitter = Splitter::new("stdout");
        for data in feeds {
            splitter.feed(data, &mut log);
        }
        splitter.finish(&mut log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let (_, stream, tag) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
                (format!("{stream} {tag}"), parts.next().unwrap().len())
            })
            .collect()
    }

    #[test]
    fn whole_and_partial_lines() {
        let full = |n| ("stdout F".to_owned(), n);
        let part = |n| ("stdout P".to_owned(), n);
        assert_eq!(
            lines(&[b"a\nbc", b"d\n", b"rest"]),
            [full(1), full(3), part(4)]
        );
        assert_eq!(lines(&[b"\n", b"\n", b"", b""]), [full(0), full(0)]);
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        assert_eq!(
            lines(&[&long, b"\n", b"", b"", b""]),
            [part(MAX_LINE), part(MAX_LINE), full(5)]
        );
        let mut exact = vec![b'x'; MAX_LINE];
        exact.push(b'\n');
        assert_eq!(lines(&[&exact]), [full(MAX_LINE)]);
    }
}
