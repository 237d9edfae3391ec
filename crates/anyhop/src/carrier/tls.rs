//! TLS around WebSockets: it lets them pass for HTTPS, and authenticates nobody.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
    },
};

use crate::StartError;

/// The application protocol spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// A server's configuration with a certificate of its own making, for as long as the node
/// runs.
pub(super) fn self_made() -> Result<ServerConfig, StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Certificate(e.to_string());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.map_err(|e| failed(&e))?;
    let key = PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
    with_certificate(vec![made.cert.der().clone()], key.into())
}

/// A server's configuration with a certificate chain and its key, both PEM.
pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<ServerConfig, StartError> {
    let failed =
        |what: &str, e: &dyn std::fmt::Display| StartError::Certificate(format!("{what}: {e}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|e| failed("the certificate is no PEM", &e))?;
    if chain.is_empty() {
        return Err(StartError::Certificate(
            "the certificate file holds no PEM certificate".to_owned(),
        ));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|e| failed("the key is no PEM key", &e))?;
    with_certificate(chain, key)
}

fn with_certificate(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, StartError> {
    let failed = |e: rustls::Error| StartError::Certificate(e.to_string());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A client's configuration that takes any certificate.
pub(super) fn client() -> Result<ClientConfig, StartError> {
    let provider = provider();
    let anyone = Anyone(Arc::clone(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| StartError::Engine(format!("TLS for WebSockets: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Believes every certificate. A node is known by its key, which no authority vouches
/// for, and a proxy that intercepts TLS shows a certificate of its own. The session's
/// handshake inside proves the key, and nothing but its packets goes over the connection.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
