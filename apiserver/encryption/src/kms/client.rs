//! The gRPC client of a plugin: service `v2.KeyManagementService` on a unix socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;
use tower::service_fn;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) healthz: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
    #[prost(map = "string, bytes", tag = "4")]
    pub(super) annotations: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(map = "string, bytes", tag = "3")]
    pub(super) annotations: HashMap<String, Vec<u8>>,
}

/// A plugin's client: connects when needed, and again when the connection broke.
pub(super) struct Client {
    channel: Channel,
    timeout: Duration,
}

/// Connects to a file's socket, or to an abstract one (`@name`).
async fn connect(path: PathBuf) -> std::io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream as Blocking};
    let text = path.to_string_lossy();
    match text.strip_prefix("/@").or_else(|| text.strip_prefix('@')) {
        Some(name) => {
            let stream = Blocking::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
        None => UnixStream::connect(path).await,
    }
}

impl Client {
    pub(super) fn new(socket: &Path, timeout: Duration) -> Self {
        let socket = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { connect(socket).await.map(TokioIo::new) }
            }),
        );
        Client { channel, timeout }
    }

    async fn call<Q, A>(&self, method: &'static str, question: Q) -> Result<A, String>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let asked = async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(|e| shown(&e))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            client
                .unary(
                    Request::new(question),
                    PathAndQuery::from_static(method),
                    codec,
                )
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| {
                    format!(
                        "rpc error: code = {:?} desc = {}",
                        status.code(),
                        status.message()
                    )
                })
        };
        tokio::time::timeout(self.timeout, asked)
            .await
            .unwrap_or_else(|_| {
                Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".into())
            })
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, String> {
        self.call("/v2.KeyManagementService/Status", StatusRequest {})
            .await
    }

    pub(super) async fn encrypt(&self, plaintext: Vec<u8>) -> Result<EncryptResponse, String> {
        let question = EncryptRequest {
            plaintext,
            uid: uuid::Uuid::new_v4().to_string(),
        };
        self.call("/v2.KeyManagementService/Encrypt", question)
            .await
    }

    pub(super) async fn decrypt(
        &self,
        ciphertext: Vec<u8>,
        key_id: String,
        annotations: HashMap<String, Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let question = DecryptRequest {
            ciphertext,
            uid: uuid::Uuid::new_v4().to_string(),
            key_id,
            annotations,
        };
        let answer: DecryptResponse = self
            .call("/v2.KeyManagementService/Decrypt", question)
            .await?;
        Ok(answer.plaintext)
    }
}

/// An error with what is behind it.
fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
