//! Mutual TLS 1.3 with the libp2p certificate extension (libp2p TLS specification 1.0).
//!
//! `libp2p-tls` makes and parses the certificates. The configurations are our own for
//! two reasons: AES comes before ChaCha20 where the processor has it (half the CPU time
//! per byte), and a wrong PeerId is reported with the one that answered.

use std::sync::{Arc, Mutex};

use anyhop_base::{Keypair, PeerId};
use libp2p_tls::certificate;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    SupportedCipherSuite,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use crate::StartError;

/// What one dial needs.
pub(crate) struct Client {
    pub(crate) config: rustls::ClientConfig,
    /// Who answered instead of the expected peer.
    pub(crate) impostor: Arc<Mutex<Option<PeerId>>>,
}

/// A node's TLS identity, made once at start.
#[derive(Debug)]
pub(crate) struct Identity {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    alpn: Vec<u8>,
}

impl Identity {
    pub(crate) fn new(keypair: &Keypair, alpn: Vec<u8>) -> Result<Self, StartError> {
        let failed =
            |what: &str, e: &dyn std::fmt::Display| StartError::Engine(format!("{what}: {e}"));
        let (cert, key) =
            certificate::generate(keypair).map_err(|e| failed("making the certificate", &e))?;
        let signer = aws_lc_rs::sign::any_ecdsa_type(&key)
            .map_err(|e| failed("loading the certificate's key", &e))?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = cipher_suites();
        Ok(Self {
            key: Arc::new(CertifiedKey::new(vec![cert], signer)),
            provider: Arc::new(provider),
            alpn,
        })
    }

    /// A client configuration that accepts `expected` only.
    pub(crate) fn client(&self, expected: PeerId) -> Result<Client, rustls::Error> {
        let impostor = Arc::new(Mutex::new(None));
        let verifier = Verifier {
            expected: Some(expected),
            impostor: Arc::clone(&impostor),
            provider: Arc::clone(&self.provider),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Resolver(Arc::clone(&self.key))));
        config.alpn_protocols = vec![self.alpn.clone()];
        // Tickets would let a session start without proving the keys anew.
        config.resumption = Resumption::disabled();
        Ok(Client { config, impostor })
    }

    pub(crate) fn server(&self) -> Result<rustls::ServerConfig, rustls::Error> {
        let verifier = Verifier {
            expected: None,
            impostor: Arc::default(),
            provider: Arc::clone(&self.provider),
        };
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(&self.key))));
        config.alpn_protocols = vec![self.alpn.clone()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

/// Reads the PeerId out of a verified certificate chain.
pub(crate) fn peer_id(chain: &[CertificateDer<'_>]) -> Option<PeerId> {
    let cert = certificate::parse(chain.first()?).ok()?;
    Some(cert.peer_id())
}

fn cipher_suites() -> Vec<SupportedCipherSuite> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    if has_fast_aes() {
        vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ]
    } else {
        vec![
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ]
    }
}

#[cfg(target_arch = "x86_64")]
fn has_fast_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_fast_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_fast_aes() -> bool {
    false
}

#[derive(Debug)]
struct Resolver(Arc<CertifiedKey>);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Checks the other side's certificate, for either role.
#[derive(Debug)]
struct Verifier {
    expected: Option<PeerId>,
    impostor: Arc<Mutex<Option<PeerId>>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !intermediates.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let actual = certificate::parse(end_entity)?.peer_id();
        if self.expected.is_some_and(|expected| expected != actual) {
            *self.impostor.lock().expect("no holder panics") = Some(actual);
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn verify_signature(
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(cert)?.verify_signature(dss.scheme, message, dss.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn tls12() -> rustls::Error {
        rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
