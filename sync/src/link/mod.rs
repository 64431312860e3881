//! A link between two listed devices: TLS 1.3 with pinned raw public keys on any byte stream, and HTTP/2 in it.
//!
//! Knows nothing of how the byte stream came about; [`crate::net`] finds peers and opens the streams.

pub mod http;
pub mod tls;

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use keymgr::ids::DeviceId;
use tokio::io::{AsyncRead, AsyncWrite};

/// Any two-way stream of bytes: a TCP connection, a proxied one, an in-band one.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Duplex for T {}

pub type BoxedDuplex = Box<dyn Duplex>;

/// The body of a response that this device gives.
pub type Body = BoxBody<Bytes, io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// What answers the requests of peers. Each request runs in a task of its own.
pub trait Serve: Send + Sync + 'static {
    /// `peer` was authenticated by its pinned key. Paths begin with `/v1/`; `/v1/hello` never arrives here.
    fn serve<'a>(&'a self, peer: DeviceId, request: hyper::Request<Incoming>) -> BoxFuture<'a, hyper::Response<Body>>;
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("this device's TLS key cannot be used: {0}")]
    Key(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("TLS: the other side did not answer in time")]
    Slow,
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
    #[error("the peer answered {0} instead of a greeting")]
    Greeting(u16),
}
