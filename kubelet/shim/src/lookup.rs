//! Finds the program to run inside the container and says in runc's words why it can't be run.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

/// The search path where the environment has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds `program` by PATH, as seen by the calling process, which is already inside the container.
pub fn program(program: &str, environment: &[String]) -> Result<CString, String> {
    if program.is_empty() {
        return Err("exec: \"\": executable file not found in $PATH".to_owned());
    }
    if program.contains('/') {
        return match check(Path::new(program)) {
            Ok(()) => c_string(program),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(format!(
                "exec: {program:?}: stat {program}: no such file or directory"
            )),
            Err(Errno::EISDIR) => Err(format!("exec: {program:?}: is a directory")),
            Err(errno) => Err(format!("exec: {program:?}: {}", words(errno))),
        };
    }
    let path = environment
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(program);
        match check(&candidate) {
            Ok(()) => return c_string(candidate.as_os_str()),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        return Err(format!("exec: {program:?}: permission denied"));
    }
    Err(format!(
        "exec: {program:?}: executable file not found in $PATH"
    ))
}

fn check(path: &Path) -> nix::Result<()> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    access(path, AccessFlags::X_OK)
}

/// An error number in Go's words.
pub fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// A C string, or why not.
pub fn c_string(text: impl AsRef<OsStr>) -> Result<CString, String> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| "invalid argument".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runcs_words() {
        let environment = vec!["PATH=/nowhere:/bin:/usr/bin".to_owned()];
        assert!(program("sh", &environment).is_ok());
        assert_eq!(
            program("no-such", &environment).unwrap_err(),
            "exec: \"no-such\": executable file not found in $PATH"
        );
        assert_eq!(
            program("/no/such", &environment).unwrap_err(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(
            program("/etc", &environment).unwrap_err(),
            "exec: \"/etc\": is a directory"
        );
        assert_eq!(
            program("/etc/passwd", &environment).unwrap_err(),
            "exec: \"/etc/passwd\": permission denied"
        );
    }
}
