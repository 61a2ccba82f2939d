//! What a process used: processor time and memory, read from `/proc` (proc(5)).

use std::time::Duration;

use anyhow::{Context, Result};

/// A process that is measured from outside.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// The process with this pid.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Processor time so far, user and system.
    pub fn processor(self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // The name may hold anything, spaces too; what follows the last bracket is fields 3 and on.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks = |index: usize| -> Result<u64> {
            let field = fields.get(index).context("a short /proc/<pid>/stat")?;
            Ok(field.parse()?)
        };
        let ticks = ticks(11)? + ticks(12)?;
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?
            .and_then(|n| u64::try_from(n).ok())
            .context("no clock ticks")?;
        Ok(Duration::from_millis(ticks * 1000 / second))
    }

    /// Proportional set size, in MB.
    pub fn memory(self) -> Result<f64> {
        kilobytes(&self.read("smaps_rollup")?, "Pss:").map(|kb| kb / 1000.0)
    }

    /// Resident set size at its most so far, in MB.
    pub fn peak(self) -> Result<f64> {
        kilobytes(&self.read("status")?, "VmHWM:").map(|kb| kb / 1000.0)
    }

    /// Lets the peak begin anew.
    pub fn forget_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid);
        std::fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
    }
}

fn kilobytes(text: &str, key: &str) -> Result<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {key} in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_working() {
        let process = Process::new(std::process::id());
        let before = process.processor().unwrap();
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process.processor().unwrap() > before);
        assert!(process.memory().unwrap() > 0.5 && process.peak().unwrap() > 0.5);
    }
}
