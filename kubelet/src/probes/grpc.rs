//! Asking by the gRPC health protocol (`grpc.health.v1.Health/Check`).

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `Ok` if the service says that it serves.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let place = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let late = || {
        format!(
            "timeout: failed to connect service {place:?} within {}s: context deadline exceeded",
            timeout.as_secs()
        )
    };
    match tokio::time::timeout(timeout, ask(&place, service, timeout)).await {
        Ok(answer) => answer,
        Err(_) => Err(late()),
    }
}

async fn ask(place: &str, service: &str, timeout: Duration) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{place}"))
        .map_err(|e| e.to_string())?
        .connect_timeout(timeout)
        .user_agent("kube-probe/1.36")
        .map_err(|e| e.to_string())?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| format!("timeout: failed to connect service {place:?}: {e}"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<CheckRequest, CheckResponse> = ProstCodec::default();
    match client
        .unary(
            Request::new(CheckRequest {
                service: service.to_owned(),
            }),
            path,
            codec,
        )
        .await
    {
        Ok(answer) => match answer.into_inner().status {
            1 => Ok(()),
            other => {
                let name = match other {
                    0 => "UNKNOWN",
                    2 => "NOT_SERVING",
                    3 => "SERVICE_UNKNOWN",
                    _ => "INVALID",
                };
                Err(format!("service unhealthy (responded with {name:?})"))
            }
        },
        Err(status) if status.code() == Code::Unimplemented => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(format!(
            "error: health rpc probe failed: {}",
            status.message()
        )),
    }
}
