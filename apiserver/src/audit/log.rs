//! The log file: a line an event, rotated by size, old files removed by age and number.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Sink;
use super::event::Event;

const MEGABYTE: u64 = 1024 * 1024;
/// The size at which a file is rotated where none is given.
const DEFAULT_SIZE: u64 = 100;

/// How the log is kept.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Days that old files are kept; 0 is for ever.
    pub max_age: u64,
    /// How many old files are kept; 0 is all.
    pub max_backups: usize,
    /// Megabytes at which a file is rotated.
    pub max_size: u64,
    /// JSON, or the old line.
    pub legacy: bool,
    /// Whether old files are compressed.
    pub compress: bool,
    /// Whether a request fails whose event can't be written.
    pub strict: bool,
}

/// The sink.
pub struct Log {
    options: LogOptions,
    file: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    size: u64,
}

impl Log {
    /// Opens the file, so that a path that can't be written is known at the start.
    pub fn open(options: LogOptions) -> std::io::Result<Self> {
        let file = if is_stdout(&options.path) {
            None
        } else {
            Some(open(&options.path)?)
        };
        Ok(Log {
            options,
            file: Mutex::new(file),
        })
    }

    fn write(&self, line: &[u8]) -> std::io::Result<()> {
        if is_stdout(&self.options.path) {
            return std::io::stdout().lock().write_all(line);
        }
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = match self.options.max_size {
            0 => DEFAULT_SIZE,
            given => given,
        } * MEGABYTE;
        let full = slot
            .as_ref()
            .is_some_and(|o| o.size > 0 && o.size + line.len() as u64 > limit);
        if full {
            *slot = None;
            self.rotate()?;
        }
        if slot.is_none() {
            *slot = Some(open(&self.options.path)?);
        }
        let Some(open) = slot.as_mut() else {
            return Ok(());
        };
        open.file.write_all(line)?;
        open.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&self) -> std::io::Result<()> {
        let stamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f");
        let (stem, extension) = parts(&self.options.path);
        let old = self
            .options
            .path
            .with_file_name(format!("{stem}-{stamp}{extension}"));
        std::fs::rename(&self.options.path, &old)?;
        if self.options.compress {
            let target = PathBuf::from(format!("{}.gz", old.display()));
            let mut packed = GzEncoder::new(create(&target)?, Compression::default());
            std::io::copy(&mut File::open(&old)?, &mut packed)?;
            packed.finish()?;
            std::fs::remove_file(&old)?;
        }
        self.remove_old()
    }

    fn remove_old(&self) -> std::io::Result<()> {
        let (stem, _) = parts(&self.options.path);
        let folder = self.options.path.parent().unwrap_or(Path::new("."));
        let start = format!("{stem}-");
        let mut old: Vec<PathBuf> = std::fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.strip_prefix(&start)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect();
        // By name is by time; the newest first.
        old.sort();
        old.reverse();
        let oldest = SystemTime::now()
            .checked_sub(Duration::from_secs(self.options.max_age * 24 * 3600))
            .filter(|_| self.options.max_age > 0);
        for (at, path) in old.iter().enumerate() {
            let too_many = self.options.max_backups > 0 && at >= self.options.max_backups;
            let too_old = oldest.is_some_and(|oldest| {
                std::fs::metadata(path)
                    .and_then(|m| m.modified())
                    .is_ok_and(|modified| modified < oldest)
            });
            if too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    let extension = if extension.is_empty() {
        extension
    } else {
        format!(".{extension}")
    };
    (text(path.file_stem()), extension)
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn open(path: &Path) -> std::io::Result<Open> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = create(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

impl Sink for Log {
    fn take(&self, event: &Event) -> bool {
        let line = if self.options.legacy {
            event.legacy()
        } else {
            match serde_json::to_string(event) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, "an audit event can't be encoded");
                    return !self.options.strict;
                }
            }
        };
        match self.write(format!("{line}\n").as_bytes()) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, file = %self.options.path.display(), "can't write the audit log");
                !self.options.strict
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = Log::open(LogOptions {
            path: path.clone(),
            max_size: 1,
            max_backups: 2,
            ..LogOptions::default()
        })
        .unwrap();
        let line = vec![b'x'; 700 * 1024];
        for _ in 0..6 {
            log.write(&line).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 3);
        assert_eq!(std::fs::metadata(path).unwrap().len(), line.len() as u64);
    }
}
