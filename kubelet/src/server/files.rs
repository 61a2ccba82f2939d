//! `/logs/`: files of the node's `/var/log`, for administrators.

use std::path::{Path, PathBuf};

use http::{Response, StatusCode};
use tokio_util::io::ReaderStream;

use super::answer::{self, Body};
use crate::volumes::subpath;

const ROOT: &str = "/var/log";

/// A directory's names, or a file.
pub fn answer(parts: &[String]) -> Response<Body> {
    let path: PathBuf = parts.iter().collect();
    if subpath::check(&path.to_string_lossy()).is_err() {
        return answer::text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    }
    let whole = Path::new(ROOT).join(&path);
    if whole.is_dir() {
        return listing(&whole);
    }
    match subpath::open_beneath(Path::new(ROOT), &path) {
        Ok(file) => {
            use futures::StreamExt;
            let stream = ReaderStream::new(tokio::fs::File::from_std(file))
                .map(|chunk| chunk.map(hyper::body::Frame::data));
            answer::text_stream(answer::streamed(stream))
        }
        Err(_) => answer::not_found(),
    }
}

fn listing(dir: &Path) -> Response<Body> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return answer::not_found();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            if e.path().is_dir() { name + "/" } else { name }
        })
        .collect();
    names.sort();
    let escape = |s: &str| {
        s.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
    };
    let lines: String = names
        .iter()
        .map(|n| format!("<a href=\"{0}\">{0}</a>\n", escape(n)))
        .collect();
    answer::html(format!("<pre>\n{lines}</pre>\n"))
}
