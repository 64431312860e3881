//! HTTP/2 on a link. The initiator of the byte stream is the client; the other side serves.
//!
//! `/v1/hello` is the link's own: its answer is the proof that the server accepted the client's key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keymgr::ids::DeviceId;
use tokio::time::timeout;

use super::{BoxedDuplex, LinkError, Serve, full};

/// Windows (RFC 9113, section 6.9): the connection's over the round trip time is the cap on a long line.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const MAX_FRAME: u32 = 1 << 20;
const SEND_BUFFER: usize = 1 << 20;
/// What a peer may have running here at once, and how long its headers may be: the bound of what it can take.
/// Each share that two devices have in common keeps a feed open.
const MAX_STREAMS: u32 = 256;
const MAX_HEADERS: u32 = 16 << 10;
const PING_EVERY: Duration = Duration::from_secs(20);
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// What a server takes before its program reads it. Requests are small; the large windows are for answers.
const SERVER_STREAM_WINDOW: u32 = 256 << 10;
const SERVER_CONNECTION_WINDOW: u32 = 2 << 20;
const HELLO: &str = "/v1/hello";

/// How soon a silent peer counts as gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    Fast,
    /// In-band through a broker that limits its users, a ping queues behind 128 KiB at some kB/s.
    Slow,
}

impl Pace {
    fn ping_answer(self) -> Duration {
        match self {
            Self::Fast => Duration::from_secs(20),
            Self::Slow => Duration::from_secs(90),
        }
    }

    /// In-band, frames of 1 MiB would keep everything else waiting for minutes.
    fn max_frame(self) -> u32 {
        match self {
            Self::Fast => MAX_FRAME,
            Self::Slow => 16 << 10,
        }
    }

    /// What is sent ahead of the reader: in-band, little, or a ping waits behind it.
    fn window(self, fast: u32) -> u32 {
        match self {
            Self::Fast => fast,
            Self::Slow => fast.min(256 << 10),
        }
    }
}

/// The client's end. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Full<Bytes>>,
}

impl Client {
    /// The handshake and the first answer. The future ends when the connection does.
    pub async fn start(
        io: BoxedDuplex,
        pace: Pace,
    ) -> Result<(Self, impl Future<Output = Result<(), hyper::Error>> + Send), LinkError> {
        let (send, connection) = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(pace.window(STREAM_WINDOW))
            .initial_connection_window_size(pace.window(CONNECTION_WINDOW))
            .max_frame_size(pace.max_frame())
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(pace.ping_answer())
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await?;
        let mut driver = Box::pin(connection);
        let this = Self { send };
        let hello = Request::get(HELLO).body(Full::default()).map_err(|_| LinkError::Greeting(0))?;
        let first = timeout(FIRST_ANSWER, this.send(hello));
        tokio::select! {
            answer = first => match answer {
                Ok(Ok(answer)) if answer.status() == StatusCode::NO_CONTENT => {}
                Ok(Ok(answer)) => return Err(LinkError::Greeting(answer.status().as_u16())),
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => return Err(LinkError::Slow),
            },
            ended = &mut driver => {
                ended?;
                return Err(LinkError::Greeting(0));
            }
        }
        Ok((this, driver))
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let mut send = self.send.clone();
        send.ready().await?;
        send.send_request(request).await
    }
}

/// Answers `peer` until its connection ends.
pub async fn serve(io: BoxedDuplex, pace: Pace, peer: DeviceId, to: Arc<dyn Serve>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let to = to.clone();
        async move {
            if request.uri().path() == HELLO {
                let mut answer = Response::new(full(Bytes::new()));
                let fits = request.method() == Method::GET;
                *answer.status_mut() = if fits { StatusCode::NO_CONTENT } else { StatusCode::METHOD_NOT_ALLOWED };
                return Ok::<_, std::convert::Infallible>(answer);
            }
            Ok(to.serve(peer, request).await)
        }
    });
    server::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(SERVER_STREAM_WINDOW)
        .initial_connection_window_size(SERVER_CONNECTION_WINDOW)
        .max_frame_size(pace.max_frame())
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(pace.ping_answer())
        .serve_connection(TokioIo::new(io), service)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Body;
    use futures::future::BoxFuture;
    use http_body_util::BodyExt;

    struct Says;

    impl Serve for Says {
        fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
            Box::pin(async move { Response::new(full(format!("{peer} {}", request.uri().path()))) })
        }
    }

    #[tokio::test]
    async fn a_request_arrives_with_the_peer_and_greetings_do_not() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let peer = DeviceId::from_bytes([3; 32]);
        let serving = tokio::spawn(serve(Box::new(far), Pace::Slow, peer, Arc::new(Says)));
        let (client, ended) = Client::start(Box::new(near), Pace::Slow).await.unwrap();
        let driving = tokio::spawn(ended);
        let ask = |path: &str| client.send(Request::get(path).body(Full::default()).unwrap());
        let answer = ask("/v1/x").await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, format!("{peer} /v1/x"));
        assert_eq!(ask(HELLO).await.unwrap().status(), StatusCode::NO_CONTENT);
        drop(client);
        driving.await.unwrap().unwrap();
        serving.await.unwrap().unwrap();
    }

    /// Until the first answer there is no link, whatever the handshake says.
    #[tokio::test]
    async fn a_server_that_hangs_up_or_answers_otherwise_is_no_link() {
        let (near, far) = tokio::io::duplex(1 << 16);
        drop(far);
        assert!(Client::start(Box::new(near), Pace::Fast).await.is_err());

        let (near, far) = tokio::io::duplex(1 << 16);
        let wrong = service_fn(|_: Request<Incoming>| async { Ok::<_, hyper::Error>(Response::new(full("hello"))) });
        let connection = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), wrong);
        let serving = tokio::spawn(connection);
        assert!(matches!(Client::start(Box::new(near), Pace::Fast).await, Err(LinkError::Greeting(200))));
        serving.abort();
    }
}
