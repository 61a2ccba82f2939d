//! A container as the shim keeps it: its process, its streams and the record of it on disk.

use std::io;
use std::path::PathBuf;

use keelson_shim::{Exit, RECORD, Record, Start};

use crate::clock;
use crate::streams::Streams;

/// One container.
pub struct Container {
    /// What it was started with.
    pub start: Start,
    /// What is on disk.
    pub record: Record,
    /// Its streams.
    pub streams: Streams,
}

impl Container {
    /// Host pid of its first process while that runs.
    pub fn running(&self) -> Option<i32> {
        self.record
            .pid
            .filter(|_| self.record.exit.is_none() && self.record.started_at.is_some())
    }

    /// Notes that its program runs.
    pub fn started(&mut self, pid: i32) {
        self.record.pid = Some(pid);
        self.record.started_at = Some(clock::now());
        self.save();
    }

    /// Notes how it ended.
    pub fn exited(&mut self, code: i32, message: String) {
        let oom_killed = self.record.started_at.is_some()
            && self
                .start
                .oom_file
                .as_ref()
                .is_some_and(|file| oom_kills(file) > 0);
        self.record.exit = Some(Exit {
            code,
            oom_killed,
            finished_at: clock::now(),
            message,
        });
        self.save();
        if self.start.foreign_pid_namespace {
            self.kill_all(libc::SIGKILL);
        }
        for cgroup in &self.start.cgroups {
            // Removed by the kubelet where something is still in it.
            let _ = std::fs::remove_dir(cgroup);
        }
    }

    /// Sends a signal to every process in its cgroup.
    pub fn kill_all(&self, signal: i32) {
        for cgroup in &self.start.cgroups {
            let Ok(pids) = std::fs::read_to_string(cgroup.join("cgroup.procs")) else {
                continue;
            };
            let pids: Vec<i32> = pids
                .lines()
                .filter_map(|pid| pid.parse().ok())
                .filter(|pid| *pid > 1)
                .collect();
            for pid in &pids {
                // SAFETY: plain kill(2).
                unsafe { libc::kill(*pid, signal) };
            }
            if !pids.is_empty() {
                return; // the same processes are in every hierarchy
            }
        }
    }

    /// On disk before anybody is told; a reader sees the old record or the new one.
    fn save(&self) {
        if let Err(error) = self.try_save() {
            eprintln!("cannot record {}: {error}", self.start.container);
        }
    }

    fn try_save(&self) -> io::Result<()> {
        let path = self.start.bundle.join(RECORD);
        let fresh: PathBuf = self.start.bundle.join("state.json.new");
        std::fs::write(&fresh, serde_json::to_vec(&self.record)?)?;
        std::fs::rename(fresh, path)
    }
}

/// How often the kernel killed for want of memory: `oom_kill <n>` in memory.events (v2) and memory.oom_control (v1).
fn oom_kills(file: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
