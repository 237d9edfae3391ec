//! Fresh keys for sealed packets: a mutual TLS 1.3 handshake of its own, over a stream of the
//! session, with the identities that the session's handshake proved.

use std::sync::Arc;

use anyhop_base::PeerId;
use anyhop_vpn::{Cipher, PacketKeys, SEALED_EXPORTER_LABEL, SEALED_SECRET_LEN};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Engine, tls};

/// Sets these handshakes apart from QUIC's.
const ALPN: &[u8] = b"anyhop-rekey/1";

/// Why there are no fresh keys.
#[derive(Debug, Error)]
pub(crate) enum RekeyError {
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// TLS gave no keys.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Somebody else answered.
    #[error("another node answered than the session's peer")]
    WrongPeer,
}

impl Engine {
    /// Handshakes with `peer` over `stream`, as the side that begins or the other one.
    /// Answers the keys, and the stream for what is said about them.
    pub(crate) async fn fresh_packet_keys<S>(
        &self,
        peer: PeerId,
        begins: bool,
        stream: S,
    ) -> Result<(PacketKeys, TlsStream<S>), RekeyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream: TlsStream<S> = if begins {
            let mut config = self.identity.client(peer)?.config;
            config.alpn_protocols = vec![ALPN.to_vec()];
            // Unused, as in the session's: the certificate is checked against the PeerId.
            let name = ServerName::try_from("anyhop").expect("a DNS name");
            let connector = TlsConnector::from(Arc::new(config));
            connector.connect(name, stream).await?.into()
        } else {
            let mut config = self.identity.server()?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            acceptor.accept(stream).await?.into()
        };
        let (_, common) = stream.get_ref();
        let proven = common.peer_certificates().and_then(tls::peer_id);
        if proven != Some(peer) {
            return Err(RekeyError::WrongPeer);
        }
        let secret = [0; SEALED_SECRET_LEN];
        let label = SEALED_EXPORTER_LABEL;
        let secret = match &stream {
            TlsStream::Client(tls) => tls.get_ref().1.export_keying_material(secret, label, None),
            TlsStream::Server(tls) => tls.get_ref().1.export_keying_material(secret, label, None),
        };
        let secret = secret?;
        let keys = PacketKeys::new(&secret, begins, Cipher::of_this_cpu());
        Ok((keys, stream))
    }
}
