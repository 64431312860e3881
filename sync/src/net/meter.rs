//! A bound on what the broker can make this device keep: the bytes of one stanza are counted as they come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::link::BoxedDuplex;

/// Brokers refuse more than 512 KiB themselves; an in-band block has at most 64 KiB.
const MAX_STANZA: usize = 1 << 20;

/// Shared with the task that reads the stanzas; it resets the count after each.
#[derive(Clone, Default)]
pub(super) struct Meter(Arc<AtomicUsize>);

impl Meter {
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

pub(super) struct Metered {
    io: BoxedDuplex,
    meter: Meter,
}

impl Metered {
    pub fn new(io: BoxedDuplex) -> Self {
        Self { io, meter: Meter::default() }
    }

    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            let more = buf.filled().len().saturating_sub(before);
            if this.meter.0.fetch_add(more, Ordering::Relaxed).saturating_add(more) > MAX_STANZA {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a stanza of more than 1 MiB")));
            }
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_stanza_without_end_is_cut() {
        let (far, near) = tokio::io::duplex(1 << 16);
        let flood = tokio::spawn(async move {
            let mut far = far;
            let zeros = [b'a'; 4096];
            while tokio::io::AsyncWriteExt::write_all(&mut far, &zeros).await.is_ok() {}
        });
        let mut metered = Metered::new(Box::new(near));
        let (mut total, mut buf) = (0, [0; 8192]);
        let error = loop {
            match metered.read(&mut buf).await {
                Ok(n) => total += n,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(total <= MAX_STANZA);
        drop(metered);
        flood.await.unwrap();
    }
}
