//! The store on etcd v3 (tried with Debian's 3.4.23).
//!
//! What etcd and its client don't do by themselves is done here: a deadline on every call, reads tried again while a
//! member is away, answers larger than gRPC's default limit, large lists read in pages at one revision, leases shared
//! by many short-lived keys. Progress requests are never used: before 3.4.31 and 3.5.13 they lie.

mod compaction;

mod lease;
mod watch;

#[cfg(test)]
pub(crate) mod process;
#[cfg(test)]
mod tests;

pub use compaction::CompactionClock;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity,
    KeyValue, KvClient, PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp, TxnOpResponse,
    WatchClient,
};
use tonic::Code;

use crate::error::{Result, StoreError};
use crate::store::{
    Deleted, EventStream, ListOptions, Listed, Revision, Store, Stored, WatchOptions,
};

/// An answer may be as large as this. A page of a list is the largest: [`PAGE`] values of at most 1.5 MiB.
const MAX_MESSAGE: usize = 1 << 31;
/// How many keys are read by one request.
const PAGE: usize = 1_000;
/// The largest request that is sent; etcd's default limit. Known here, so that nothing larger travels.
const MAX_REQUEST: usize = 1_572_864;
const PAUSE_BEFORE_RETRY: Duration = Duration::from_millis(50);

/// Where etcd is, and how to talk to it.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// Certificates; without them plain HTTP.
    pub tls: Option<EtcdTls>,
    /// How long a call may take, tries included.
    pub request_timeout: Duration,
    /// How long connecting to a member may take.
    pub connect_timeout: Duration,
}

impl EtcdConfig {
    /// The defaults for these members.
    pub fn new(endpoints: Vec<String>) -> Self {
        EtcdConfig {
            endpoints,
            tls: None,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
        }
    }
}

/// Certificates in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca: Vec<u8>,
    /// The client's certificate.
    pub certificate: Vec<u8>,
    /// The client's key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls(..)")
    }
}

/// The store on etcd. Cheap to clone.
#[derive(Clone)]
pub struct EtcdStore {
    kv: KvClient,
    watch: WatchClient,
    leases: lease::Leases,
    timeout: Duration,
}

impl EtcdStore {
    /// A store on these members. Connections are made when needed, so this succeeds while etcd is away.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        // Watches get a connection of their own: a burst of events must not stand before answers to writes.
        let client = client(&config).await?;
        let watch = Self::client_for_watches(&config).await?;
        Ok(EtcdStore {
            kv: client
                .kv_client()
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            watch,
            leases: lease::Leases::new(client.lease_client(), config.request_timeout),
            timeout: config.request_timeout,
        })
    }

    async fn client_for_watches(config: &EtcdConfig) -> Result<WatchClient> {
        Ok(client(config)
            .await?
            .watch_client()
            .max_decoding_message_size(MAX_MESSAGE))
    }

    /// One call with the deadline.
    async fn call<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
    ) -> Result<T> {
        deadline(self.timeout, what, call).await
    }

    /// A call that changes nothing: tried again until the deadline while etcd is away.
    async fn read<T, C, F>(&self, what: &'static str, mut call: C) -> Result<T>
    where
        C: FnMut(KvClient) -> F,
        F: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let started = tokio::time::Instant::now();
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            match deadline(left, what, call(self.kv.clone())).await {
                Err(StoreError::Unavailable(_) | StoreError::Interrupted(_))
                    if started.elapsed() + PAUSE_BEFORE_RETRY < self.timeout =>
                {
                    tokio::time::sleep(PAUSE_BEFORE_RETRY).await;
                }
                answer => return answer,
            }
        }
    }

    /// A transaction, tried again until the deadline while it could not be sent.
    async fn txn(&self, txn: Txn) -> Result<etcd_client::TxnResponse> {
        let started = tokio::time::Instant::now();
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            let mut kv = self.kv.clone();
            match deadline(left, "write", kv.txn(txn.clone())).await {
                Err(StoreError::Unavailable(_))
                    if started.elapsed() + PAUSE_BEFORE_RETRY < self.timeout =>
                {
                    tokio::time::sleep(PAUSE_BEFORE_RETRY).await;
                }
                answer => return answer,
            }
        }
    }

    /// Writes a key if its last write was `expected` (0: none), or says what is there. If the connection breaks, the
    /// write may have been done: it is tried again, and a refusal by our own value is a success.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<std::result::Result<Revision, Option<Stored>>> {
        check_size(key, &value)?;
        let options = self.put_options(ttl).await?;
        let condition = Compare::mod_revision(key, CompareOp::Equal, signed(expected));
        let txn = Txn::new()
            .when([condition])
            .and_then([TxnOp::put(key, value.to_vec(), options)])
            .or_else([TxnOp::get(key, None)]);
        let mut in_doubt = false;
        let answer = loop {
            match self.txn(txn.clone()).await {
                Err(StoreError::Interrupted(_)) if !in_doubt => in_doubt = true,
                answer => break answer?,
            }
        };
        if answer.succeeded() {
            return header_revision(answer.header()).map(Ok);
        }
        let current = read_in(&answer)?;
        match current {
            Some(current) if in_doubt && current.value == value => Ok(Ok(current.revision)),
            current => Ok(Err(current)),
        }
    }

    async fn put_options(&self, ttl: Option<Duration>) -> Result<Option<PutOptions>> {
        let Some(ttl) = ttl else { return Ok(None) };
        let lease = self.leases.lease(ttl).await?;
        Ok(Some(PutOptions::new().with_lease(lease)))
    }

    async fn page(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<(Vec<Stored>, Revision, u64)> {
        let mut options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if let Some(revision) = revision {
            options = options.with_revision(signed(revision));
        }
        let mut answer = self
            .read("list", |mut kv| {
                let options = options.clone();
                async move { kv.get(start, Some(options)).await }
            })
            .await?;
        let now = header_revision(answer.header())?;
        let count = u64::try_from(answer.count()).unwrap_or(0);
        let items = answer
            .take_kvs()
            .into_iter()
            .map(stored)
            .collect::<Result<Vec<_>>>()?;
        Ok((items, revision.unwrap_or(now), count))
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>> {
        let mut answer = self
            .read("get", |mut kv| async move { kv.get(key, None).await })
            .await?;
        answer.take_kvs().pop().map(stored).transpose()
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listed> {
        let (first, end) = range(prefix);
        let mut start = match &options.start_after {
            Some(after) if after.as_bytes() >= first.as_slice() => successor(after),
            _ => first,
        };
        let wanted = match options.limit {
            0 => usize::MAX,
            limit => limit,
        };
        let mut items: Vec<Stored> = Vec::new();
        let mut revision = options.at_revision;
        loop {
            let limit = PAGE.min(wanted - items.len());
            let (page, at, count) = self.page(&start, &end, limit, revision).await?;
            revision = Some(at);
            let got = page.len() as u64;
            if let Some(last) = page.last() {
                start = successor(&last.key);
            }
            items.extend(page);
            let remaining = count.saturating_sub(got);
            if remaining == 0 || got == 0 || items.len() >= wanted {
                return Ok(Listed {
                    more: remaining > 0,
                    remaining,
                    items,
                    revision: at,
                });
            }
        }
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.put(key, value, 0, ttl)
            .await?
            .map_err(|_| StoreError::AlreadyExists)
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision> {
        self.put(key, value, expected, ttl)
            .await?
            .map_err(|current| StoreError::Conflict {
                current: current.map(Box::new),
            })
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Deleted> {
        let previous = DeleteOptions::new().with_prev_key();
        let condition = match expected {
            Some(expected) => Compare::mod_revision(key, CompareOp::Equal, signed(expected)),
            None => Compare::mod_revision(key, CompareOp::Greater, 0),
        };
        let txn = Txn::new()
            .when([condition])
            .and_then([TxnOp::delete(key, Some(previous))])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.txn(txn).await?;
        if !answer.succeeded() {
            return Err(match read_in(&answer)? {
                Some(current) => StoreError::Conflict {
                    current: Some(Box::new(current)),
                },
                None => StoreError::NotFound,
            });
        }
        let previous = answer
            .op_responses()
            .into_iter()
            .find_map(|response| match response {
                TxnOpResponse::Delete(mut deleted) => deleted.take_prev_kvs().pop(),
                _ => None,
            })
            .ok_or_else(|| {
                StoreError::Internal("etcd deleted a key without saying what it was".to_owned())
            })?;
        Ok(Deleted {
            revision: header_revision(answer.header())?,
            previous: stored(previous)?,
        })
    }

    async fn watch(&self, prefix: &str, options: WatchOptions) -> Result<EventStream> {
        watch::open(self.watch.clone(), prefix, options, self.timeout).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        // Any linearizable read says it; a key that holds a few digits costs the least.
        let options = GetOptions::new().with_keys_only();
        let answer = self
            .read("read the revision", |mut kv| {
                let options = options.clone();
                async move { kv.get(compaction::KEY, Some(options)).await }
            })
            .await?;
        header_revision(answer.header())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut kv = self.kv.clone();
        self.call("compact", kv.compact(signed(revision), None))
            .await?;
        Ok(())
    }
}

async fn client(config: &EtcdConfig) -> Result<Client> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(config.connect_timeout)
        // A member that vanished without closing its connections is noticed, watches included.
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(Duration::from_secs(30))
        // A member cut off from the others refuses instead of letting a watch hang.
        .with_require_leader(true);
    if let Some(tls) = &config.tls {
        options = options.with_tls(
            TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.certificate, &tls.key)),
        );
    }
    Client::connect(&config.endpoints, Some(options))
        .await
        .map_err(failure)
}

async fn deadline<T>(
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(failure),
        Err(_) => Err(StoreError::Timeout(format!(
            "etcd did not answer to {what} within {limit:?}"
        ))),
    }
}

/// etcd's refusals in our terms.
fn failure(error: etcd_client::Error) -> StoreError {
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => {
            return StoreError::Unavailable(error.to_string());
        }
        etcd_client::Error::IoError(error) => return StoreError::Unavailable(error.to_string()),
        other => return StoreError::Internal(other.to_string()),
    };
    let message = message(&status);
    match status.code() {
        Code::InvalidArgument if message.contains("request is too large") => StoreError::TooLarge,
        Code::ResourceExhausted if message.contains("larger than max") => StoreError::TooLarge,
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted {
            compact_revision: 0,
        },
        Code::OutOfRange if message.contains("future revision") => StoreError::FutureRevision,
        // The proposal may still be committed.
        Code::Unavailable if message.contains("timed out") => StoreError::Timeout(message),
        Code::Unavailable | Code::ResourceExhausted => StoreError::Unavailable(message),
        Code::DeadlineExceeded | Code::Cancelled => StoreError::Timeout(message),
        // A connection that broke under a call.
        Code::Unknown if std::error::Error::source(&status).is_some() => {
            StoreError::Interrupted(message)
        }
        _ => StoreError::Internal(message),
    }
}

/// The status's message with what is behind it: "transport error" alone says nothing.
fn message(status: &tonic::Status) -> String {
    let mut message = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = error.source();
    }
    message
}

fn check_size(key: &str, value: &Bytes) -> Result<()> {
    if key.len() + value.len() > MAX_REQUEST {
        return Err(StoreError::TooLarge);
    }
    Ok(())
}

fn stored(kv: KeyValue) -> Result<Stored> {
    let revision = unsigned(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Ok(Stored {
        key: String::from_utf8(key)
            .map_err(|_| StoreError::Internal("a key in etcd is not UTF-8".to_owned()))?,
        value: value.into(),
        revision,
        state: crate::store::ValueState::Current,
    })
}

/// What the read of a failed transaction found.
fn read_in(answer: &etcd_client::TxnResponse) -> Result<Option<Stored>> {
    answer
        .op_responses()
        .into_iter()
        .find_map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().pop(),
            _ => None,
        })
        .map(stored)
        .transpose()
}

fn header_revision(header: Option<&ResponseHeader>) -> Result<Revision> {
    header
        .map(|header| unsigned(header.revision()))
        .ok_or_else(|| StoreError::Internal("etcd answered without a header".to_owned()))
}

/// etcd's revisions are never negative.
fn unsigned(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// The first key behind this one.
fn successor(key: &str) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key.as_bytes());
    next.push(0);
    next
}

/// The range of keys that begin with a prefix, in etcd's terms.
fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (vec![0], vec![0]);
    }
    let mut end = prefix.as_bytes().to_vec();
    // The last byte of UTF-8 is never 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix.as_bytes().to_vec(), end)
}
