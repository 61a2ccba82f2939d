//! Links of proxied pages and redirects, turned so that they lead through the proxy again: paths that begin at the root get the
//! proxy's own path in front. Pages are rewritten as they stream by; what isn't HTML, or is encoded in a way we can't read,
//! passes untouched.

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use futures::{StreamExt, TryStreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use http_body_util::BodyStream;
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{MemorySettings, element};

use crate::body::{Body, BodyError};
use crate::request::Request;
use crate::response::Response;

/// Bound on what one page may hold back while a tag is incomplete, in bytes.
const MEMORY: usize = 1 << 20;

/// Elements and their attributes that hold a link (HTML Living Standard, index of attributes, and HTML 4.01's list of URIs).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where a proxied page is, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The proxy's path: the request's without what the backend is asked for.
    prefix: String,
    /// The `Host` the client asked.
    host: String,
    /// The backend's authority.
    backend: String,
}

impl Place {
    /// Of a request whose backend is asked for `tail` (path and query).
    pub fn of(request: &Request, backend: String, tail: &str) -> Self {
        let tail = tail.split('?').next().unwrap_or_default();
        let path = request.uri.path();
        Self {
            prefix: path.strip_suffix(tail).unwrap_or(path).to_owned(),
            host: request.header(HOST.as_str()).unwrap_or_default().to_owned(),
            backend,
        }
    }

    /// Tells the backend where it is seen from, in the headers that upstream uses.
    pub fn announce(&self, headers: &mut HeaderMap, path: &str) {
        for (name, value) in [
            ("x-forwarded-uri", path),
            ("x-forwarded-host", &self.host),
            ("x-forwarded-proto", "https"),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// The link as it must read for the client; `None` if it may stay as it is.
    fn through_proxy(&self, link: &str) -> Option<String> {
        // What is behind the path stays as it is, and `Uri` knows no fragments.
        let (before, fragment) = match link.split_once('#') {
            Some((before, fragment)) => (before, Some(fragment)),
            None => (link, None),
        };
        let uri: Uri = before.parse().ok()?;
        let elsewhere = uri.authority().is_some_and(|a| a.as_str() != self.backend);
        if elsewhere || !before_path(before).starts_with('/') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with(&self.prefix) && uri.authority().is_none() {
            path.to_owned()
        } else {
            format!("{}{path}", self.prefix)
        };
        let start = match uri.authority() {
            Some(_) => format!("https://{}", self.host),
            None => String::new(),
        };
        let fragment = fragment.map(|f| format!("#{f}")).unwrap_or_default();
        Some(format!("{start}{path}{fragment}"))
    }

    /// Turns the links of an answer.
    pub fn turn(self, mut answer: Response) -> Response {
        let headers = answer.headers_mut();
        if let Some(location) = headers.get(LOCATION).and_then(|l| l.to_str().ok()) {
            if let Some(turned) = self.absolute(location)
                && let Ok(value) = HeaderValue::from_str(&turned)
            {
                headers.insert(LOCATION, value);
            }
            return answer;
        }
        let text = |name: HeaderName| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        if !text(CONTENT_TYPE).contains("text/html") {
            return answer;
        }
        let gzip = match text(CONTENT_ENCODING).as_str() {
            "" | "identity" => false,
            "gzip" => true,
            _ => return answer,
        };
        headers.remove(CONTENT_LENGTH);
        answer.map(|body| match body {
            Body::Empty => Body::Empty,
            other => self.page(other, gzip),
        })
    }

    /// A redirect's target: like a link, but always with scheme and host, as upstream answers it.
    fn absolute(&self, location: &str) -> Option<String> {
        let turned = self.through_proxy(location)?;
        Some(match turned.starts_with('/') {
            true => format!("https://{}{turned}", self.host),
            false => turned,
        })
    }

    fn page(self, body: Body, gzip: bool) -> Body {
        let chunks = BodyStream::new(body).map_ok(|frame| frame.into_data().unwrap_or_default());
        let state = (chunks, Some(Page::new(self, gzip)));
        Body::stream(futures::stream::unfold(
            state,
            |(mut chunks, page)| async move {
                let mut page = page?;
                let next = match chunks.next().await {
                    Some(Ok(chunk)) => page.write(&chunk).map(|out| (out, Some(page))),
                    Some(Err(e)) => Err(e),
                    None => page.finish().map(|out| (out, None)),
                };
                Some(match next {
                    Ok((out, page)) => (Ok(out), (chunks, page)),
                    Err(e) => (Err(e), (chunks, None)),
                })
            },
        ))
    }
}

/// A link from its path on.
fn before_path(link: &str) -> &str {
    match link.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => link,
    }
}

/// What came out of the rewriter and was not sent yet.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn push(&self, bytes: &[u8]) {
        if let Ok(mut held) = self.0.lock() {
            held.extend_from_slice(bytes);
        }
    }

    fn take(&self) -> Vec<u8> {
        self.0
            .lock()
            .map(|mut held| std::mem::take(&mut *held))
            .unwrap_or_default()
    }
}

type Rewriter = HtmlRewriter<'static, Box<dyn FnMut(&[u8]) + Send>>;

/// The rewriter as something that a decompressor can write to.
struct Sink(Rewriter);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Input {
    Plain(Sink),
    Gzip(GzDecoder<Sink>, GzEncoder<Vec<u8>>),
}

/// A page on its way.
struct Page {
    input: Input,
    output: Output,
}

impl Page {
    fn new(place: Place, gzip: bool) -> Self {
        let output = Output::default();
        let place = Arc::new(place);
        let handlers = LINKS.iter().map(|(name, attributes)| {
            let place = place.clone();
            element!(*name, move |element| {
                for attribute in *attributes {
                    let turned = element
                        .get_attribute(attribute)
                        .and_then(|link| place.through_proxy(&link));
                    if let Some(turned) = turned {
                        element.set_attribute(attribute, &turned)?;
                    }
                }
                Ok(())
            })
        });
        let settings = Settings {
            element_content_handlers: handlers.collect(),
            memory_settings: MemorySettings {
                max_allowed_memory_usage: MEMORY,
                ..MemorySettings::new()
            },
            ..Settings::new_send()
        };
        let to = output.clone();
        let sink = Sink(HtmlRewriter::new(
            settings,
            Box::new(move |bytes: &[u8]| to.push(bytes)) as Box<dyn FnMut(&[u8]) + Send>,
        ));
        let input = match gzip {
            false => Input::Plain(sink),
            true => Input::Gzip(
                GzDecoder::new(sink),
                GzEncoder::new(Vec::new(), Compression::fast()),
            ),
        };
        Self { input, output }
    }

    fn write(&mut self, chunk: &[u8]) -> Result<Bytes, BodyError> {
        match &mut self.input {
            Input::Plain(sink) => {
                sink.write_all(chunk)?;
                Ok(self.output.take().into())
            }
            Input::Gzip(decoder, encoder) => {
                decoder.write_all(chunk)?;
                decoder.flush()?;
                encoder.write_all(&self.output.take())?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }

    fn finish(self) -> Result<Bytes, BodyError> {
        match self.input {
            Input::Plain(sink) => {
                sink.0.end()?;
                Ok(self.output.take().into())
            }
            Input::Gzip(decoder, mut encoder) => {
                decoder.finish()?.0.end()?;
                encoder.write_all(&self.output.take())?;
                Ok(encoder.finish()?.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            prefix: "/api/v1/namespaces/n/pods/p/proxy".into(),
            host: "server:6443".into(),
            backend: "10.0.0.1:80".into(),
        }
    }

    fn page(text: &str, chunk: usize) -> String {
        let mut page = Page::new(place(), false);
        let mut out = Vec::new();
        for part in text.as_bytes().chunks(chunk) {
            out.extend(page.write(part).unwrap());
        }
        out.extend(page.finish().unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_of_pages_lead_through_the_proxy() {
        for (text, want) in [
            (
                r#"<a href="/x?y=1#z">t</a>"#,
                r#"<a href="/api/v1/namespaces/n/pods/p/proxy/x?y=1#z">t</a>"#,
            ),
            (r#"<a href="x/y">t</a>"#, r#"<a href="x/y">t</a>"#),
            (
                r#"<img src="http://10.0.0.1:80/i.png">"#,
                r#"<img src="https://server:6443/api/v1/namespaces/n/pods/p/proxy/i.png">"#,
            ),
            (
                r#"<a href="https://elsewhere/x">t</a>"#,
                r#"<a href="https://elsewhere/x">t</a>"#,
            ),
            (r#"<p title="/x">/x</p>"#, r#"<p title="/x">/x</p>"#),
            (
                r#"<a href="/api/v1/namespaces/n/pods/p/proxy/x">t</a>"#,
                r#"<a href="/api/v1/namespaces/n/pods/p/proxy/x">t</a>"#,
            ),
        ] {
            assert_eq!(page(text, 1000), want);
            assert_eq!(page(text, 3), want, "in small pieces");
        }
    }

    #[test]
    fn compressed_pages_stay_compressed() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(br#"<a href="/x">t</a>"#).unwrap();
        let sent = encoder.finish().unwrap();
        let mut page = Page::new(place(), true);
        let mut out = Vec::new();
        for part in sent.chunks(5) {
            out.extend(page.write(part).unwrap());
        }
        out.extend(page.finish().unwrap());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&out[..]), &mut text)
            .unwrap();
        assert_eq!(
            text,
            r#"<a href="/api/v1/namespaces/n/pods/p/proxy/x">t</a>"#
        );
    }

    #[test]
    fn a_page_cannot_take_all_memory() {
        let mut page = Page::new(place(), false);
        page.write(b"<a ").unwrap();
        let endless = vec![b'x'; MEMORY];
        assert!((0..4).any(|_| page.write(&endless).is_err()));
    }

    #[test]
    fn redirects_lead_through_the_proxy() {
        assert_eq!(
            place().absolute("/x").as_deref(),
            Some("https://server:6443/api/v1/namespaces/n/pods/p/proxy/x")
        );
        assert_eq!(place().absolute("https://elsewhere/"), None);
    }
}
