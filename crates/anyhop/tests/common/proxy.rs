//! HTTP proxies as companies have them, on a virtual host.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
};

use anyhop::net::{BoxStream, Host};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const PROXY_PORT: u16 = 3128;

/// What a proxy does with those who ask it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policy {
    /// The `Proxy-Authorization` that it wants.
    pub(crate) credentials: Option<&'static str>,
    /// Whether it ends TLS itself, with a certificate of its own, and looks at what is
    /// inside.
    pub(crate) intercepts: bool,
}

/// What a proxy has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The heads of all requests to connect.
    pub(crate) requests: Vec<String>,
    /// What the first bytes inside were, as far as it could read them.
    pub(crate) inside: Vec<String>,
}

/// Serves a proxy on a host.
pub(crate) fn serve(host: Arc<dyn Host>, policy: Policy) -> Arc<Mutex<Seen>> {
    let seen = Arc::<Mutex<Seen>>::default();
    let listener = host.listen_tcp(([0, 0, 0, 0], PROXY_PORT).into()).unwrap();
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let (host, seen) = (Arc::clone(&host), Arc::clone(&shared));
            tokio::spawn(async move {
                // A client that goes away is no concern of the proxy's.
                let _ = tunnel(&*host, policy, stream, &seen).await;
            });
        }
    });
    seen
}

async fn head(stream: &mut BoxStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

async fn tunnel(
    host: &dyn Host,
    policy: Policy,
    mut client: BoxStream,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let request = head(&mut client).await?;
    seen.lock().unwrap().requests.push(request.clone());
    let authorized = policy.credentials.is_none_or(|wanted| {
        let wanted = format!("proxy-authorization: {wanted}").to_lowercase();
        request.to_lowercase().contains(&wanted)
    });
    if !authorized {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                       Proxy-Authenticate: Basic realm=\"company\"\r\nContent-Length: 6\r\n\r\nno way";
        return client.write_all(refusal.as_bytes()).await;
    }
    let target = request.split_whitespace().nth(1).unwrap();
    let Ok(mut server) = host.connect_tcp(target.parse().unwrap()).await else {
        let failed = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(failed.as_bytes()).await;
    };
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 company\r\n\r\n")
        .await?;
    if policy.intercepts {
        let client = acceptor().accept(client).await?;
        let name = ServerName::try_from("intercepted.example").unwrap();
        let server = connector().connect(name, server).await?;
        let (mut client, mut server): (BoxStream, BoxStream) = (Box::new(client), Box::new(server));
        let inside = head(&mut client).await?;
        server.write_all(inside.as_bytes()).await?;
        seen.lock().unwrap().inside.push(inside);
        copy_bidirectional(&mut client, &mut server).await?;
    } else {
        copy_bidirectional(&mut client, &mut server).await?;
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["company.example".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn connector() -> TlsConnector {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// The company trusts every server.
#[derive(Debug)]
struct Anyone;

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
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
