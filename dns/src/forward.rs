//! Asks the servers of `/etc/resolv.conf` about names outside the cluster: UDP with a fresh port and id each, TCP when truncated.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::cache::Cache;

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once; more are told to try again later.
const CONCURRENT_MOST: usize = 1000;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is no server to ask.
    #[error("no upstream servers are configured")]
    NoServers,
    /// Too much is under way.
    #[error("too many questions are being forwarded")]
    Busy,
    /// No server answered.
    #[error("no upstream server answered: {0}")]
    Unanswered(String),
}

/// The servers and what they said.
#[derive(Debug)]
pub struct Forwarder {
    servers: Vec<SocketAddr>,
    preferred: AtomicUsize,
    cache: Cache,
    permits: Semaphore,
}

impl Forwarder {
    /// Asks these servers, the one that answered last first.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            preferred: AtomicUsize::new(0),
            cache: Cache::default(),
            permits: Semaphore::new(CONCURRENT_MOST),
        }
    }

    /// The answer of a server, from the cache if it is still good.
    pub async fn ask(&self, question: &Query) -> Result<Message, ForwardError> {
        if let Some(message) = self.cache.get(&question.name, question.query_type) {
            return Ok(message);
        }
        if self.servers.is_empty() {
            return Err(ForwardError::NoServers);
        }
        let _permit = self.permits.try_acquire().map_err(|_| ForwardError::Busy)?;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::new();
        for offset in 0..self.servers.len() {
            let index = (first + offset) % self.servers.len();
            match tokio::time::timeout(TIMEOUT, exchange(self.servers[index], question)).await {
                Ok(Ok(message)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    self.cache
                        .put(&question.name, question.query_type, &message);
                    return Ok(message);
                }
                Ok(Err(error)) => last = format!("{}: {error}", self.servers[index]),
                Err(_) => last = format!("{}: timed out", self.servers[index]),
            }
        }
        Err(ForwardError::Unanswered(last))
    }
}

async fn exchange(server: SocketAddr, question: &Query) -> std::io::Result<Message> {
    let mut query = Message::query();
    query.metadata.id = rand::random();
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_max_payload(crate::serve::UDP_MOST);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(std::io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(crate::serve::UDP_MOST)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question may be forged: go on listening until the time is over.
        let Ok(message) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        if !fits(&query, &message) {
            continue;
        }
        return if message.metadata.truncation {
            over_tcp(server, &query, &bytes).await
        } else {
            Ok(message)
        };
    }
}

fn fits(query: &Message, answer: &Message) -> bool {
    let same = |a: &Query, b: &Query| {
        a.name.to_lowercase() == b.name.to_lowercase()
            && a.query_type == b.query_type
            && a.query_class == b.query_class
    };
    answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && matches!((query.queries.as_slice(), answer.queries.as_slice()), ([a], [b]) if same(a, b))
}

async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let message = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if fits(query, &message) {
        Ok(message)
    } else {
        Err(std::io::Error::other("an answer to another question"))
    }
}

/// The servers of a `resolv.conf`, at most three as the resolver has it; `own` addresses are left out, or a query would go in circles.
pub fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_loopback())
        .take(3)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    #[test]
    fn loopback_servers_are_left_out() {
        let text = "search x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver nonsense\n";
        assert_eq!(
            servers(text),
            [
                "192.0.2.1:53".parse().expect("v4"),
                "[2001:db8::1]:53".parse().expect("v6")
            ]
        );
    }

    #[tokio::test]
    async fn forged_answers_are_passed_over_and_the_true_one_kept() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let address = server.local_addr().expect("address");
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            let (length, client) = server.recv_from(&mut buffer).await.expect("a query");
            let query = Message::from_vec(&buffer[..length]).expect("decode");
            for (id, ip) in [
                (query.metadata.id.wrapping_add(1), [6, 6, 6, 6]),
                (query.metadata.id, [192, 0, 2, 9]),
            ] {
                let mut answer = Message::response(id, OpCode::Query);
                answer.add_query(query.queries[0].clone());
                answer.add_answer(Record::from_rdata(
                    query.queries[0].name.clone(),
                    60,
                    RData::A(A(ip.into())),
                ));
                server
                    .send_to(&answer.to_vec().expect("encode"), client)
                    .await
                    .expect("send");
            }
            // Only one query is answered: the second is served from the cache.
        });
        let forwarder = Forwarder::new(vec![address]);
        let question = Query::query(
            Name::from_ascii("example.com.").expect("name"),
            RecordType::A,
        );
        for _ in 0..2 {
            let answer = forwarder.ask(&question).await.expect("an answer");
            assert_eq!(answer.answers[0].data.to_string(), "192.0.2.9");
        }
    }

    #[tokio::test]
    async fn without_servers_there_is_no_answer() {
        let question = Query::query(Name::root(), RecordType::A);
        assert!(matches!(
            Forwarder::new(Vec::new()).ask(&question).await,
            Err(ForwardError::NoServers)
        ));
    }
}
