//! The server's side against clients written here: WebSocket v5 and base64, SPDY exec, port-forward in both carriers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use keelson_streaming::remote_command::{self, Wanted};
use keelson_streaming::spdy::frame::{self, FLAG_FIN, Frame};
use keelson_streaming::spdy::headers::Encoder;
use keelson_streaming::websocket::tunnel::Tunnel;
use keelson_streaming::{Outcome, RemoteCommand, port_forward};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

fn headers(upgrade: &'static str, protocol: &'static str) -> HeaderMap {
    [
        ("connection", "Upgrade"),
        ("upgrade", upgrade),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", protocol),
        ("x-stream-protocol-version", protocol),
    ]
    .into_iter()
    .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
    .collect()
}

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// Says back what it reads, then exits with 7.
async fn echo(mut session: RemoteCommand) {
    let mut text = Vec::new();
    session
        .stdin
        .take()
        .unwrap()
        .read_to_end(&mut text)
        .await
        .unwrap();
    session
        .stdout
        .take()
        .unwrap()
        .write_all(&text)
        .await
        .unwrap();
    session
        .stderr
        .take()
        .unwrap()
        .write_all(b"err")
        .await
        .unwrap();
    session.end.finish(&Outcome::Exit(7)).await;
}

fn exec(headers: &HeaderMap, wanted: Wanted) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    let (_, accepted) = remote_command::accept(headers, wanted).unwrap();
    tokio::spawn(async move { echo(accepted.serve(ours).await.unwrap()).await });
    theirs
}

#[tokio::test]
async fn websocket_v5() {
    let io = exec(&headers("websocket", "v5.channel.k8s.io"), ALL);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let big = vec![b'x'; 100_000];
    let mut message = vec![0];
    message.extend_from_slice(&big);
    socket.send(Message::Binary(message.into())).await.unwrap();
    socket
        .send(Message::Ping(Bytes::from_static(b"p")))
        .await
        .unwrap();
    socket
        .send(Message::Binary(Bytes::from_static(&[255, 0])))
        .await
        .unwrap();
    let (mut out, mut err, mut status, mut pong) = (Vec::new(), Vec::new(), Vec::new(), false);
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => match bytes[0] {
                1 => out.extend_from_slice(&bytes[1..]),
                2 => err.extend_from_slice(&bytes[1..]),
                3 => status.extend_from_slice(&bytes[1..]),
                other => panic!("channel {other}"),
            },
            Message::Pong(_) => pong = true,
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.expect("a code").code), 1000);
                break;
            }
            _ => {}
        }
    }
    assert_eq!((out, err.as_slice(), pong), (big, b"err".as_slice(), true));
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(
        (
            &status["reason"],
            &status["details"]["causes"][0]["message"]
        ),
        (&"NonZeroExitCode".into(), &"7".into())
    );
}

fn open(encoder: &mut Encoder, out: &mut BytesMut, id: u32, pairs: &[(&str, &str)]) {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let block = encoder.encode(&pairs).unwrap().into();
    Frame::SynStream {
        id,
        flags: 0,
        block,
    }
    .encode(out);
}

#[tokio::test]
async fn spdy_v4() {
    let mut io = exec(&headers("SPDY/3.1", "v4.channel.k8s.io"), ALL);
    let (mut encoder, mut out) = (Encoder::new().unwrap(), BytesMut::new());
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        open(&mut encoder, &mut out, id, &[("streamtype", kind)]);
    }
    Frame::Data {
        id: 3,
        flags: FLAG_FIN,
        data: Bytes::from_static(b"hello"),
    }
    .encode(&mut out);
    io.write_all(&out).await.unwrap();
    let (mut texts, mut fins) = (
        std::collections::BTreeMap::<u32, Vec<u8>>::new(),
        Vec::new(),
    );
    while fins.len() < 4 {
        if let Some(Frame::Data { id, flags, data }) = frame::read(&mut io).await.unwrap() {
            texts.entry(id).or_default().extend_from_slice(&data);
            if flags & FLAG_FIN != 0 {
                fins.push(id);
            }
        }
    }
    assert_eq!(
        (texts[&5].as_slice(), texts[&7].as_slice()),
        (b"hello".as_slice(), b"err".as_slice())
    );
    assert!(String::from_utf8_lossy(&texts[&1]).contains("NonZeroExitCode"));
    assert_eq!(
        fins.last(),
        Some(&3),
        "stdin ends last, as its end ends the client's input"
    );
}

#[tokio::test]
async fn terminal_sizes() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let wanted = Wanted {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
    };
    let (_, accepted) =
        remote_command::accept(&headers("websocket", "v4.base64.channel.k8s.io"), wanted).unwrap();
    let mut session = accepted.serve(ours).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    // {"Width":80,"Height":24}
    socket
        .send(Message::Text("4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9".into()))
        .await
        .unwrap();
    let size = session.resize.as_mut().unwrap().recv().await.unwrap();
    assert_eq!((size.width, size.height), (80, 24));
    assert!(session.stderr.is_none());
}

async fn forward_over<I: AsyncWrite + tokio::io::AsyncRead + Unpin>(mut io: I) {
    let (mut encoder, mut out) = (Encoder::new().unwrap(), BytesMut::new());
    for (id, kind) in [(1, "error"), (3, "data")] {
        open(
            &mut encoder,
            &mut out,
            id,
            &[("streamtype", kind), ("port", "80"), ("requestid", "0")],
        );
    }
    Frame::Data {
        id: 3,
        flags: FLAG_FIN,
        data: Bytes::from_static(b"ping"),
    }
    .encode(&mut out);
    io.write_all(&out).await.unwrap();
    io.flush().await.unwrap();
    let mut text = Vec::new();
    loop {
        if let Some(Frame::Data { id: 3, flags, data }) = frame::read(&mut io).await.unwrap() {
            text.extend_from_slice(&data);
            if flags & FLAG_FIN != 0 {
                break;
            }
        }
    }
    assert_eq!(text, b"pong to 80");
}

fn forwarding(headers: &HeaderMap) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (_, accepted) = port_forward::accept(headers).unwrap();
    tokio::spawn(async move {
        let mut session = accepted.serve(ours).await;
        while let Some(forward) = session.next().await {
            let (near, mut far) = tokio::io::duplex(1024);
            let port = forward.port;
            tokio::spawn(async move {
                let mut text = Vec::new();
                far.read_to_end(&mut text).await.unwrap();
                assert_eq!(text, b"ping");
                far.write_all(format!("pong to {port}").as_bytes())
                    .await
                    .unwrap();
            });
            forward.join(near).await.unwrap();
        }
    });
    theirs
}

#[tokio::test]
async fn port_forward_in_both_carriers() {
    forward_over(forwarding(&headers(
        "SPDY/3.1",
        port_forward::SPDY_PROTOCOL,
    )))
    .await;
    let io = forwarding(&headers("websocket", port_forward::TUNNEL_PROTOCOL));
    forward_over(Tunnel::new(
        WebSocketStream::from_raw_socket(io, Role::Client, None).await,
    ))
    .await;
}
