//! One line a step, as kind prints them: a spinner while it runs on a terminal, `✓` or `✗` when it is done; plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Prints steps to standard error.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
        }
    }
}

impl Progress {
    /// Runs one step and prints its outcome with the seconds it took.
    pub async fn step<T, E>(
        &self,
        title: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        if self.terminal {
            eprint!(" • {title} …");
            let _ = std::io::stderr().flush();
        }
        let outcome = work.await;
        let seconds = started.elapsed().as_secs_f64();
        let mark = if outcome.is_ok() { '✓' } else { '✗' };
        self.line(mark, &format!("{title} ({seconds:.1} s)"));
        outcome
    }

    /// Prints a line that was no step of its own.
    pub fn done(&self, title: &str) {
        self.line('✓', title);
    }

    fn line(&self, mark: char, title: &str) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        eprintln!(" {mark} {title}");
    }
}
