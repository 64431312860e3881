//! Framing on proxied streams, so that an idle side can send bytes that mean nothing.
//!
//! Prosody's proxy65 (0.12) leaves up to 8 KiB of what it has read lying until more comes the same way (it pauses
//! reading before it looks whether its socket buffer is empty). The end of a large answer would arrive with the next
//! ping, 20 s later. Empty frames push it through: soon, then at growing pauses, since one may get stuck with the rest.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::link::BoxedDuplex;

/// A frame: length (2 bytes, big-endian), that many bytes. Length 0: nothing.
const FRAME: usize = 16 << 10;
const FIRST: Duration = Duration::from_millis(2);
/// After this the link's own pings go on.
const LAST: Duration = Duration::from_secs(15);

pub(super) fn framed(stream: TcpStream) -> BoxedDuplex {
    let (near, far) = tokio::io::duplex(8 * FRAME);
    let (mut from_app, mut to_app) = tokio::io::split(far);
    let (from_net, mut to_net) = stream.into_split();
    tokio::spawn(async move {
        let sending = async {
            let mut frame = vec![0; 2 + FRAME];
            let mut pause = FIRST;
            loop {
                let (head, body) = frame.split_at_mut(2);
                tokio::select! {
                    read = from_app.read(body) => {
                        let Ok(length @ 1..) = read else { break };
                        let Ok(short) = u16::try_from(length) else { break };
                        head.copy_from_slice(&short.to_be_bytes());
                        let Some(whole) = frame.get(..2 + length) else { break };
                        if to_net.write_all(whole).await.is_err() {
                            break;
                        }
                        pause = FIRST;
                    }
                    () = sleep(pause), if pause < LAST => {
                        if to_net.write_all(&[0, 0]).await.is_err() {
                            break;
                        }
                        pause *= 2;
                    }
                }
            }
            let _ = to_net.shutdown().await;
        };
        let receiving = async {
            let mut from_net = BufReader::with_capacity(4 * FRAME, from_net);
            let mut body = vec![0; usize::from(u16::MAX)];
            while let Ok(length) = from_net.read_u16().await {
                let Some(body) = body.get_mut(..usize::from(length)) else { break };
                if from_net.read_exact(body).await.is_err() || to_app.write_all(body).await.is_err() {
                    break;
                }
            }
            let _ = to_app.shutdown().await;
        };
        // A link has no use for one direction alone.
        tokio::select! {
            () = sending => {}
            () = receiving => {}
        }
    });
    Box::new(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_an_end_is_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut a, mut b) = (framed(a.unwrap()), framed(b.unwrap().0));
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(a.write_all(&sent), b.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
        drop(a);
        assert_eq!(b.read(&mut got).await.unwrap(), 0);
    }
}
