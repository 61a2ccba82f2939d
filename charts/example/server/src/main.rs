//! The guide's example application: a small HTTP/1.1 server on port 3000 that answers `/health`, echoes, and shows which
//! settings it was given. After SIGTERM it goes on serving for three seconds (endpoints need a moment to forget it), then drains.
//!
//! It is linked statically into an image of its own, so it does without an async runtime or an HTTP crate.

mod load;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// How long requests are still accepted after SIGTERM.
const LINGER: Duration = Duration::from_secs(3);
/// How long requests under way may take after that.
const DRAIN: Duration = Duration::from_secs(10);
/// Largest body that is echoed.
const BODY_MOST: usize = 1 << 20;

struct State {
    stopping: AtomicBool,
    busy: AtomicUsize,
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fetch", url] => return fetch(url),
        ["load", url, rate, seconds] => return load::run(url, rate, seconds),
        _ => {}
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let port = std::env::var("PORT")
        .ok()
        .and_then(|p| p.parse().ok())
        .unwrap_or(3000);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on {port}, version {}", setting("API_VERSION"));
    let state = Arc::new(State {
        stopping: AtomicBool::new(false),
        busy: AtomicUsize::new(0),
    });
    let accepting = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = accepting.clone();
            std::thread::spawn(move || {
                // A client that goes away in the middle is its own business.
                let _ = serve(&stream, &state);
            });
        }
    });
    signals.wait()?;
    println!("SIGTERM: serving for another {} s", LINGER.as_secs());
    state.stopping.store(true, Ordering::SeqCst);
    std::thread::sleep(LINGER);
    let deadline = Instant::now() + DRAIN;
    while state.busy.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("drained");
    Ok(())
}

/// `api fetch http://host:port/path`: prints a body, for looking at a Service from within a pod (Debian's static busybox crashes
/// where its wget has to look up a name).
fn fetch(url: &str) -> std::io::Result<()> {
    print!("{}", get(url)?);
    Ok(())
}

/// The body of a page that must answer 200, over a connection of its own.
fn get(url: &str) -> std::io::Result<String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DRAIN))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!(
            "not a good answer: {}",
            answer.lines().next().unwrap_or_default()
        ))),
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn serve(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(75)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(8192).read_line(&mut line)? == 0 {
            return Ok(());
        }
        state.busy.fetch_add(1, Ordering::SeqCst);
        let outcome = answer(&line, &mut reader, stream, state);
        state.busy.fetch_sub(1, Ordering::SeqCst);
        if !outcome? {
            return Ok(());
        }
    }
}

/// Answers one request; returns whether the connection stays open.
fn answer(
    line: &str,
    reader: &mut BufReader<&TcpStream>,
    mut stream: &TcpStream,
    state: &State,
) -> std::io::Result<bool> {
    let (mut length, mut close) = (0usize, line.contains("HTTP/1.0"));
    let mut headers = 0;
    loop {
        let mut header = String::new();
        if (&mut *reader).take(8192).read_line(&mut header)? == 0 || headers > 100 {
            return Ok(false);
        }
        headers += 1;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(usize::MAX),
                "connection" => close |= value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
    }
    if length > BODY_MOST {
        respond(
            &mut stream,
            "413 Payload Too Large",
            "body too large\n",
            true,
        )?;
        return Ok(false);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or("/"),
    );
    let path = target.split('?').next().unwrap_or("/");
    // A connection kept open would keep a pod that is going away in use.
    let close = close || state.stopping.load(Ordering::SeqCst);
    let (status, text) = match (method, path) {
        ("GET" | "HEAD", "/health" | "/healthz") => ("200 OK", "ok\n".to_owned()),
        ("GET", "/settings") => ("200 OK", settings()),
        ("GET", "/version") => ("200 OK", format!("{}\n", setting("API_VERSION"))),
        ("GET", "/") => (
            "200 OK",
            format!(
                "api {} on {}\n",
                setting("API_VERSION"),
                setting("HOSTNAME")
            ),
        ),
        ("POST" | "PUT", "/echo") => ("200 OK", String::from_utf8_lossy(&body).into_owned()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    respond(&mut stream, status, &text, close)?;
    Ok(!close)
}

/// The names of the settings, and the values of those that are no secrets.
fn settings() -> String {
    let mut text = String::new();
    for (name, secret) in [
        ("NODE_ENV", false),
        ("LOG_LEVEL", false),
        ("API_URL", false),
        ("DATABASE_URL", true),
        ("JWT_SECRET", true),
    ] {
        let value = match std::env::var(name) {
            Ok(_) if secret => "(set)".to_owned(),
            Ok(value) => value,
            Err(_) => "(not set)".to_owned(),
        };
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

fn respond(stream: &mut &TcpStream, status: &str, body: &str, close: bool) -> std::io::Result<()> {
    let connection = if close { "close" } else { "keep-alive" };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes())
}
