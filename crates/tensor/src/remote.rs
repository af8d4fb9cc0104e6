//! A device of another process, borrowed and lent over burn's remote backend.
//!
//! Operations travel as burn's own, so that a server computes with the reference bodies of [`TensorOps`]. The connection is a
//! WebSocket, which hides nothing from whoever can read the network: the token keeps strangers out, not listeners.

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Remote, TensorMetadata};
use burn::remote::RemoteHost;
use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
use burn::tensor::{Device, TensorData};

use crate::{DeviceError, Packed, TensorOps};

impl TensorOps for Remote {
    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        let device = x.device();
        // It travels once.
        let weight = w.on_device(
            |kept: &FloatTensor<Self>| kept.device() == device,
            || Self::float_from_data(TensorData::new(w.to_vec(), w.shape()), &device),
        );
        let weight = if transposed {
            weight
        } else {
            Self::float_transpose(weight)
        };
        Self::product(x, weight)
    }
}

/// Where a client finds the server's token.
const TOKEN: &str = "REALIGN_REMOTE_TOKEN";

/// How long a server may take to pick up the first call.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first device of the server at `address`, `HOST:PORT` or `ws://HOST:PORT`.
pub(crate) fn borrow(address: &str) -> Result<Device, DeviceError> {
    let fail = |reason: String| DeviceError::Remote {
        address: format!("remote:{address}"),
        reason,
    };
    let place = address.strip_prefix("ws://").unwrap_or(address);
    // burn tries for a quarter of a minute before it gives up; an address where nobody listens says so at once.
    let found = place
        .to_socket_addrs()
        .map_err(|e| fail(format!("expected HOST:PORT: {e}")))?;
    let mut refused = "no such host".to_owned();
    let reached = found
        .into_iter()
        .any(|to| match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(_) => true,
            Err(e) => {
                refused = e.to_string();
                false
            }
        });
    if !reached {
        return Err(fail(format!("no device server answers: {refused}")));
    }
    let token = std::env::var(TOKEN).unwrap_or_default();
    let host = RemoteHost::websocket(&format!("ws://{place}")).with_credential(token);
    Device::remote_options(&host).init().map_err(|e| match e {
        burn::remote::ConnectError::Unauthorized => fail(format!("the server refuses the token in {TOKEN}")),
        other => fail(other.to_string()),
    })
}

/// Why a device cannot be lent, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The token is empty, which every client's is that has none.
    #[error("an empty token keeps nobody out")]
    Token,
    /// The server stopped.
    #[error("{0}")]
    Stopped(String),
}

/// Lends a device to clients that present `token`, or to all of them, until the process is told to stop (SIGINT, SIGTERM).
///
/// # Errors
/// [`ServeError`]: an empty token, a device that cannot be lent (libtorch's; one that is itself remote), a failing socket.
pub fn lend(device: &Device, listener: TcpListener, token: Option<&str>) -> Result<(), ServeError> {
    let mut server = RemoteServer::new([device.clone()]);
    if let Some(token) = token {
        server = server.with_authorizer(TokenAuthorizer::new(token).map_err(|_| ServeError::Token)?);
    }
    server
        .serve(WebSocketTransport::from_listener(listener))
        .map_err(|e| ServeError::Stopped(e.to_string()))
}
