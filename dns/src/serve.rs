//! UDP and TCP service of one address, bounded in what it holds at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::Answerer;

/// Largest datagram we send or ask for (no fragments on common paths: DNS Flag Day 2020).
pub const UDP_MOST: u16 = 1232;
/// Questions under way at once; a datagram beyond is dropped, and its client asks again.
const CONCURRENT_MOST: usize = 4096;
/// TCP connections at once.
const CONNECTIONS_MOST: usize = 512;
/// A TCP client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(10);

/// Serves datagrams until `stop`.
pub async fn udp(socket: UdpSocket, answerer: Arc<Answerer>, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let permits = Arc::new(Semaphore::new(CONCURRENT_MOST));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer: nothing of this socket's is wrong.
                Err(_) => continue,
            },
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            continue;
        };
        let (bytes, socket, answerer) =
            (buffer[..length].to_vec(), socket.clone(), answerer.clone());
        tokio::spawn(async move {
            if let Some(message) = answerer.answer(&bytes).await
                && let Some(bytes) = fit(&message)
                && let Err(error) = socket.send_to(&bytes, client).await
            {
                tracing::debug!(%error, "could not answer");
            }
            drop(permit);
        });
    }
}

/// Encodes an answer for a datagram; one that is too large is truncated, so that the client asks again by TCP.
fn fit(message: &Message) -> Option<Vec<u8>> {
    let limit = usize::from(
        message
            .edns
            .as_ref()
            .map_or(512, |e| e.max_payload().clamp(512, UDP_MOST)),
    );
    let bytes = encode(message)?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    encode(&message.truncate())
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message
        .to_vec()
        .inspect_err(|error| tracing::error!(%error, "could not encode an answer"))
        .ok()
}

/// Serves TCP until `stop`.
pub async fn tcp(listener: TcpListener, answerer: Arc<Answerer>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let answerer = answerer.clone();
        tokio::spawn(async move {
            // A client that goes away in the middle is its own business.
            let _ = connection(stream, &answerer).await;
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, answerer: &Answerer) -> std::io::Result<()> {
    loop {
        let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut bytes = vec![0; usize::from(length?)];
        match tokio::time::timeout(IDLE, stream.read_exact(&mut bytes)).await {
            Ok(read) => read?,
            Err(_) => return Ok(()),
        };
        let Some(bytes) = answerer.answer(&bytes).await.and_then(|m| encode(&m)) else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(bytes.len()) else {
            return Ok(());
        };
        stream
            .write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())
            .await?;
    }
}

/// Opens both sockets of an address.
pub async fn listen(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(address).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Forwarder;
    use crate::records::Records;
    use crate::zone::Zone;
    use hickory_proto::op::Query;
    use hickory_proto::rr::{Name, RecordType};

    #[tokio::test]
    async fn a_large_answer_comes_by_tcp() {
        let zone = Zone::new("cluster.local");
        let endpoints = (0..200u8)
            .map(|i| (format!("pod-{i}"), vec![[10, 244, 0, i].into()]))
            .collect();
        zone.set(
            "default",
            "many",
            Some(Records::Headless {
                endpoints,
                ports: Default::default(),
            }),
        );
        let answerer = Arc::new(Answerer::new(Arc::new(zone), Forwarder::new(Vec::new())));
        let (udp_socket, tcp_listener) = listen(([127, 0, 0, 1], 0).into()).await.expect("listen");
        let address = tcp_listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        tokio::spawn(udp(udp_socket, answerer.clone(), stop.clone()));
        tokio::spawn(tcp(tcp_listener, answerer, stop.clone()));
        let mut query = Message::query();
        query.add_query(Query::query(
            Name::from_ascii("many.default.svc.cluster.local.").expect("name"),
            RecordType::A,
        ));
        let bytes = query.to_vec().expect("encode");

        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        client.send_to(&bytes, address).await.expect("send");
        let mut buffer = [0; 4096];
        let length = client.recv(&mut buffer).await.expect("receive");
        let short = Message::from_vec(&buffer[..length]).expect("decode");
        assert!(length <= 512 && short.metadata.truncation);

        let mut stream = TcpStream::connect(address).await.expect("connect");
        let length = u16::try_from(bytes.len()).expect("short");
        stream
            .write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())
            .await
            .expect("write");
        let length = stream.read_u16().await.expect("length");
        let mut whole = vec![0; usize::from(length)];
        stream.read_exact(&mut whole).await.expect("answer");
        assert_eq!(
            Message::from_vec(&whole).expect("decode").answers.len(),
            200
        );
        stop.cancel();
    }
}
