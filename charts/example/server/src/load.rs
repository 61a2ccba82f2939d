//! `api load URL RATE SECONDS`: asks for a page so many times a second, each time over a new connection (and so through the Service's
//! rules and a look-up of its name), and prints one line of JSON with what became of the requests. Ends earlier on SIGTERM.
//!
//! Requests start when they are due, not when the one before has ended, so that a server that stalls is seen as one.

use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// Requests that may be under way at once.
const WORKERS: u64 = 64;
/// Errors whose text is kept.
const ERRORS_MOST: usize = 20;

/// What is counted, shared by the workers.
#[derive(Default)]
struct Tally {
    next: AtomicU64,
    stopped: AtomicBool,
    latencies: Mutex<Vec<u32>>,
    errors: Mutex<Vec<String>>,
    failed: AtomicU64,
}

/// Runs the load and prints its line.
pub fn run(url: &str, rate: &str, seconds: &str) -> std::io::Result<()> {
    let number = |text: &str| -> std::io::Result<u64> {
        text.parse()
            .ok()
            .filter(|n| (1..=100_000).contains(n))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidInput,
                    format!("{text:?} is no number of 1 to 100000"),
                )
            })
    };
    let (rate, seconds) = (number(rate)?, number(seconds)?);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let tally = Arc::new(Tally::default());
    let stopping = tally.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            stopping.stopped.store(true, Ordering::SeqCst);
        }
    });
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS.min(rate))
        .map(|_| {
            let (tally, url) = (tally.clone(), url.to_owned());
            std::thread::spawn(move || work(&tally, &url, started, rate, rate * seconds))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| Error::other("a worker failed"))?;
    }
    println!("{}", report(&tally, started.elapsed()));
    Ok(())
}

/// Takes one request after the other, each at its time.
fn work(tally: &Tally, url: &str, started: Instant, rate: u64, total: u64) {
    loop {
        let number = tally.next.fetch_add(1, Ordering::SeqCst);
        if number >= total || tally.stopped.load(Ordering::SeqCst) {
            return;
        }
        let due = started + Duration::from_nanos(number * (1_000_000_000 / rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let outcome = crate::get(url);
        // Counted from when it was due: waiting for a worker is waiting too.
        let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        match outcome {
            Ok(_) => {
                if let Ok(mut latencies) = tally.latencies.lock() {
                    latencies.push(took);
                }
            }
            Err(error) => {
                tally.failed.fetch_add(1, Ordering::SeqCst);
                if let Ok(mut errors) = tally.errors.lock()
                    && errors.len() < ERRORS_MOST
                {
                    let at = started.elapsed().as_secs_f64();
                    errors.push(format!("{at:.2} s: {error}").replace(['"', '\\'], "'"));
                }
            }
        }
    }
}

fn report(tally: &Tally, took: Duration) -> String {
    let mut latencies = tally
        .latencies
        .lock()
        .map(|l| l.clone())
        .unwrap_or_default();
    latencies.sort_unstable();
    let at = |percent: usize| {
        let last = latencies.len().saturating_sub(1);
        latencies.get(last * percent / 100).copied().unwrap_or(0)
    };
    let errors = tally.errors.lock().map(|e| e.clone()).unwrap_or_default();
    let errors: Vec<String> = errors.iter().map(|e| format!("\"{e}\"")).collect();
    format!(
        "{{\"succeeded\":{},\"failed\":{},\"seconds\":{:.1},\"p50_us\":{},\"p99_us\":{},\"max_us\":{},\"errors\":[{}]}}",
        latencies.len(),
        tally.failed.load(Ordering::SeqCst),
        took.as_secs_f64(),
        at(50),
        at(99),
        at(100),
        errors.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_named() {
        let tally = Tally::default();
        // A port of loopback that nobody listens on.
        work(&tally, "http://127.0.0.1:1/", Instant::now(), 1000, 3);
        assert_eq!(tally.failed.load(Ordering::SeqCst), 3);
        let line = report(&tally, Duration::from_secs(1));
        assert!(
            line.contains("\"failed\":3") && line.contains("refused"),
            "{line}"
        );
    }

    #[test]
    fn percentiles_are_of_what_succeeded() {
        let tally = Tally::default();
        tally.latencies.lock().expect("lock").extend(1..=100);
        let line = report(&tally, Duration::from_secs(1));
        assert!(
            line.contains("\"p50_us\":50") && line.contains("\"max_us\":100"),
            "{line}"
        );
    }
}
