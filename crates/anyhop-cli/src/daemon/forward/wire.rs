//! The start of a `forward/1` stream.
//!
//! ```text
//! ask     version 1 · what · u16 length · text
//!         what: 0 TCP or 1 UDP to the HOST:PORT in the text, as it is exposed
//!               2 TCP to what is exposed at the port in the text, whatever its host
//!               3 TCP to the HOST:PORT in the text, by a node that is an exit
//! answer  0, or a refusal · u16 length · reason
//! ```

use std::io;

use anyhop::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Service, Wanted};
use crate::error::{CliError, Code};

const VERSION: u8 = 1;
const TCP: u8 = 0;
const UDP: u8 = 1;
const PORT: u8 = 2;
const EXIT: u8 = 3;
/// Longest target or reason, bytes.
const MAX_TEXT: usize = 512;

/// Why a service was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Refusal {
    /// It is not exposed.
    NotExposed = 1,
    /// It is, but there was no connection to it.
    ConnectFailed = 2,
    /// As many as allowed are forwarded already.
    Limit = 3,
    /// The ask was not understood.
    Bad = 4,
    /// The node is no exit, or not to there.
    NoExit = 5,
}

/// Asks for a connection or flow.
pub(super) async fn write_ask(
    out: &mut (impl AsyncWrite + Unpin),
    wanted: &Wanted,
) -> io::Result<()> {
    let (what, text) = match wanted {
        Wanted::Service(service) => (u8::from(service.udp), service.target.to_string()),
        Wanted::Port(port) => (PORT, port.to_string()),
        Wanted::Exit(target) => (EXIT, target.to_string()),
    };
    let mut head = vec![VERSION, what];
    push_text(&mut head, &text);
    out.write_all(&head).await
}

/// Reads an ask; `None` when it is of another version or no valid one.
pub(super) async fn read_ask(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Wanted>> {
    let mut head = [0; 2];
    input.read_exact(&mut head).await?;
    let Some(text) = read_text(input).await? else {
        return Ok(None);
    };
    let service = |udp| {
        let target = text.parse().ok()?;
        Some(Wanted::Service(Service::new(target, udp)))
    };
    Ok(match head {
        [VERSION, TCP] => service(false),
        [VERSION, UDP] => service(true),
        [VERSION, PORT] => text.parse().ok().filter(|p| *p > 0).map(Wanted::Port),
        [VERSION, EXIT] => text.parse().ok().map(Wanted::Exit),
        _ => None,
    })
}

/// Agrees.
pub(super) async fn write_go(out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    out.write_all(&[0, 0, 0]).await
}

/// Refuses.
pub(super) async fn write_refusal(
    out: &mut (impl AsyncWrite + Unpin),
    refusal: Refusal,
    reason: &str,
) -> io::Result<()> {
    let mut answer = vec![refusal as u8];
    push_text(&mut answer, reason);
    out.write_all(&answer).await
}

/// Reads the answer to an ask; a refusal is an error that says whose and why.
pub(super) async fn read_answer(
    input: &mut (impl AsyncRead + Unpin),
    peer: PeerId,
    wanted: &Wanted,
) -> Result<(), CliError> {
    let lost = |e: io::Error| {
        CliError::new(
            Code::Lost,
            format!("{peer} did not answer whether it forwards to {wanted}: {e}"),
        )
    };
    let kind = input.read_u8().await.map_err(lost)?;
    let reason = read_text(input).await.map_err(lost)?.unwrap_or_default();
    let refused = |code, why: &str, hint: &str| {
        Err(CliError::new(code, format!("{peer} does not forward to {wanted}: {why}")).hint(hint))
    };
    match kind {
        0 => Ok(()),
        1 => refused(
            Code::Refused,
            "it is not exposed there",
            "run `anyhop expose HOST:PORT` there, spelled the same",
        ),
        2 => refused(Code::Failed, &reason, "check that the service runs there"),
        3 => refused(
            Code::Limit,
            "it forwards as many connections as it may",
            "close some, or try again later",
        ),
        5 => refused(
            Code::Refused,
            &reason,
            "`anyhop expose --exit` there makes it an exit; with --allow-private one to its own networks, too",
        ),
        _ => refused(
            Code::Failed,
            "it did not understand",
            "both sides must run the same version",
        ),
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&u16::try_from(end).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// A text; `None` when it is too long or no UTF-8.
async fn read_text(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let len = usize::from(input.read_u16().await?);
    if len > MAX_TEXT {
        return Ok(None);
    }
    let mut text = vec![0; len];
    input.read_exact(&mut text).await?;
    Ok(String::from_utf8(text).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn service(text: &str, udp: bool) -> Wanted {
        Wanted::Service(Service::new(text.parse().expect("valid"), udp))
    }

    #[test]
    fn the_wire_format_is_pinned() {
        let exit = "example.org:443".parse().expect("valid");
        let table: [(Wanted, &[u8]); 4] = [
            (service("h:80", false), b"\x01\0\0\x04h:80"),
            (service("[::1]:80", true), b"\x01\x01\0\x08[::1]:80"),
            (Wanted::Port(22), b"\x01\x02\0\x0222"),
            (Wanted::Exit(exit), b"\x01\x03\0\x0fexample.org:443"),
        ];
        block_on(async {
            for (wanted, expected) in table {
                let mut out = Vec::new();
                write_ask(&mut out, &wanted).await.expect("a Vec");
                assert_eq!(out, expected);
                let read = read_ask(&mut &out[..]).await.expect("whole");
                assert_eq!(read, Some(wanted));
            }
            let mut out = Vec::new();
            write_refusal(&mut out, Refusal::ConnectFailed, "no")
                .await
                .expect("a Vec");
            assert_eq!(out, b"\x02\x00\x02no");
        });
    }

    #[test]
    fn each_refusal_tells_its_reason_and_class() {
        let table = [
            (Refusal::NotExposed, Code::Refused, "not exposed"),
            (Refusal::ConnectFailed, Code::Failed, "the reason"),
            (Refusal::Limit, Code::Limit, "as many"),
            (Refusal::Bad, Code::Failed, "understand"),
            (Refusal::NoExit, Code::Refused, "the reason"),
        ];
        for (refusal, code, says) in table {
            block_on(async {
                let mut out = Vec::new();
                write_refusal(&mut out, refusal, "the reason")
                    .await
                    .expect("a Vec");
                let error = read_answer(&mut &out[..], PeerId::random(), &service("h:1", false))
                    .await
                    .expect_err("a refusal");
                assert_eq!(error.code, code);
                assert!(error.message.contains(says), "{error}");
                assert!(error.hint.is_some());
            });
        }
    }

    proptest! {
        #[test]
        fn arbitrary_asks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = block_on(read_ask(&mut &bytes[..]));
        }
    }
}
