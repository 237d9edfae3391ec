//! What answers plain HTTP where a configured peer serves WebSocket without TLS: the peer's
//! site, or something that stepped in.

use std::{net::SocketAddr, time::Duration};

use anyhop::{Endpoint, PeerAddr};
use axum::http::{HeaderMap, Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::probe::MAX_PROBES;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest header value that is told, bytes.
const MAX_TOLD: usize = 200;

/// What came of one request.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// Where it went.
    pub(super) addr: SocketAddr,
    /// What came back.
    pub(super) outcome: Result<SiteAnswer, String>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SiteAnswer {
    /// Its status.
    pub(super) status: u16,
    /// Where it leads to.
    pub(super) location: Option<String>,
    /// The server's clock, seconds since the Unix epoch.
    pub(super) date_unix_s: Option<i64>,
}

/// Asks every plain site among the addresses, all at once.
pub(super) async fn all(peers: &[PeerAddr]) -> Vec<Site> {
    let mut running = JoinSet::new();
    for peer in peers.iter().take(MAX_PROBES) {
        if let Endpoint::Ws { addr, tls: false } = peer.addr {
            running.spawn(async move {
                let outcome = timeout(TIMEOUT, ask(addr)).await;
                let outcome = outcome.unwrap_or_else(|_| Err("no answer".to_owned()));
                Site { addr, outcome }
            });
        }
    }
    let mut sites = running.join_all().await;
    sites.sort_by_key(|s| s.addr);
    sites
}

async fn ask(addr: SocketAddr) -> Result<SiteAnswer, String> {
    let stream = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let request = Request::get("/")
        .header(header::HOST, addr.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    // How the connection ends shows in the request.
    let _moving = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|e| e.to_string())?;
    Ok(SiteAnswer {
        status: answer.status().as_u16(),
        location: text(answer.headers(), header::LOCATION),
        date_unix_s: text(answer.headers(), header::DATE).and_then(|d| parse_date(&d)),
    })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    let value = value.chars().filter(|c| !c.is_control());
    Some(value.take(MAX_TOLD).collect())
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7; the obsolete forms are
/// not read) as seconds since the Unix epoch.
fn parse_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let words: Vec<_> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|m| *m == month)? as i64 + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time.split(':').map_while(|n| n.parse().ok()).collect();
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    let plausible = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    plausible
        .then(|| days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 in the Gregorian calendar; years are counted from March, so that
/// the leap day is their last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    // 1970-01-01 counted so.
    days - 719_468
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn dates_are_read_as_the_rfc_writes_them() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(4_102_444_800)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("", None),
        ] {
            assert_eq!(parse_date(text), seconds, "{text}");
        }
    }

    /// Answers one connection with this.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        addr
    }

    #[tokio::test]
    async fn the_head_of_an_answer_is_told_and_nothing_is_followed() {
        let addr = answering(
            "HTTP/1.1 302 Found\r\nlocation: http://portal.example/login\r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let answer = ask(addr).await.expect("an answer");
        assert_eq!(answer.status, 302);
        assert_eq!(
            answer.location.as_deref(),
            Some("http://portal.example/login")
        );
        assert_eq!(answer.date_unix_s, Some(784_111_777));
    }

    #[tokio::test]
    async fn what_is_no_http_is_an_error() {
        ask(answering("").await).await.expect_err("closed");
        ask(answering("SSH-2.0-x\r\n").await)
            .await
            .expect_err("another protocol");
    }
}
