//! Asking by opening a TCP connection.

use std::time::Duration;

use tokio::net::TcpStream;

/// `Ok` if it could be opened in time.
pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    let place = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(format!("dial tcp {place}: connect: connection refused"))
        }
        Ok(Err(error)) => Err(format!("dial tcp {place}: {error}")),
        Err(_) => Err(format!("dial tcp {place}: i/o timeout")),
    }
}
