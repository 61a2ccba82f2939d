//! A KMS v2 plugin for tests: keeps its keys in memory, can rotate them, fall ill and stop.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::client::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use crate::ciphers::AesGcm;

#[derive(Default)]
pub(super) struct State {
    keys: BTreeMap<String, Arc<AesGcm>>,
    pub(super) current: String,
    pub(super) ill: bool,
    pub(super) decrypted: usize,
}

pub(super) struct Plugin {
    pub(super) state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

impl Plugin {
    pub(super) fn start(socket: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = CancellationToken::new();
        let plugin = Plugin {
            state: state.clone(),
            _stop: stop.clone().drop_guard(),
        };
        plugin.rotate("key-1");
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(
            Server::builder()
                .add_service(Service(state))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                    stop.cancelled().await;
                }),
        );
        plugin
    }

    pub(super) fn rotate(&self, name: &str) {
        let mut state = self.state.lock();
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).unwrap();
        let cipher = Arc::new(AesGcm::new(&key).unwrap());
        state.keys.insert(name.to_owned(), cipher);
        name.clone_into(&mut state.current);
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl tonic::server::NamedService for Service {
    const NAME: &'static str = "v2.KeyManagementService";
}

macro_rules! method {
    ($name:ident, $question:ty, $answer:ty, $body:expr) => {
        struct $name(Arc<Mutex<State>>);
        impl UnaryService<$question> for $name {
            type Response = $answer;
            type Future = BoxFuture<'static, Result<Response<$answer>, Status>>;
            fn call(&mut self, request: Request<$question>) -> Self::Future {
                let state = self.0.clone();
                let body: fn(&mut State, $question) -> Result<$answer, Status> = $body;
                Box::pin(
                    async move { body(&mut state.lock(), request.into_inner()).map(Response::new) },
                )
            }
        }
    };
}

method!(StatusCall, StatusRequest, StatusResponse, |state, _| Ok(
    StatusResponse {
        version: "v2".to_owned(),
        healthz: if state.ill { "ill" } else { "ok" }.to_owned(),
        key_id: state.current.clone(),
    }
));
method!(
    EncryptCall,
    EncryptRequest,
    EncryptResponse,
    |state, question| {
        let cipher = &state.keys[&state.current];
        let sealed = cipher.seal_now(&question.plaintext, "");
        Ok(EncryptResponse {
            ciphertext: sealed.map_err(|e| Status::internal(e.0))?,
            key_id: state.current.clone(),
            annotations: HashMap::from([("kms.example.com".to_owned(), b"1".to_vec())]),
        })
    }
);
method!(
    DecryptCall,
    DecryptRequest,
    DecryptResponse,
    |state, question| {
        state.decrypted += 1;
        if question.annotations.is_empty() {
            return Err(Status::invalid_argument("no annotations"));
        }
        let cipher = state
            .keys
            .get(&question.key_id)
            .ok_or_else(|| Status::not_found("no such key"))?;
        let plain = cipher.open_now(&question.ciphertext, "");
        Ok(DecryptResponse {
            plaintext: plain.map_err(|e| Status::internal(e.0))?,
        })
    }
);

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v2.KeyManagementService/Status" => {
                    let codec = ProstCodec::default();
                    Grpc::new(codec).unary(StatusCall(state), request).await
                }
                "/v2.KeyManagementService/Encrypt" => {
                    let codec = ProstCodec::default();
                    Grpc::new(codec).unary(EncryptCall(state), request).await
                }
                _ => {
                    let codec = ProstCodec::default();
                    Grpc::new(codec).unary(DecryptCall(state), request).await
                }
            })
        })
    }
}
