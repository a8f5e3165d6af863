//! TLS as `sslmode` asks for it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;
use walarchive_core::{Error, Result};
use walarchive_storage::{NamedCertificates, Names};

use crate::error::Refusal;
use crate::hosts::{Host, Place};
use crate::params::Params;
use crate::stream::Stream;

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub(crate) fn of(params: &Params) -> Result<Self> {
        Ok(match params.get("sslmode") {
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("allow") => SslMode::Allow,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(other) => {
                return Err(Error::config(
                    format!("sslmode (PGSSLMODE) is \"{}\", which is no mode", other.escape_debug()),
                    "Set it to disable, allow, prefer, require, verify-ca or verify-full.",
                ));
            }
        })
    }
}

/// The configuration for TLS; made once for all attempts.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// As with libpq, `require` verifies as `verify-ca` does if there is a file of root certificates.
    pub(crate) fn new(params: &Params, mode: SslMode) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = verifier(params, mode, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::defect(format!("TLS cannot be used: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match own_certificate(params)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::config(
                    format!("the client certificate of PGSSLCERT cannot be used: {error}"),
                    "PGSSLCERT and PGSSLKEY must name a certificate and its key in PEM.",
                )
            })?,
            None => builder.with_no_client_auth(),
        };
        Ok(Tls(Arc::new(config)))
    }

    /// Begin TLS on a stream, after the server has said that it will.
    pub(crate) async fn wrap(&self, stream: Box<dyn Stream>, host: &Host) -> Result<Box<dyn Stream>, Refusal> {
        let name = match &host.place {
            Place::Network { name: Some(name), .. } => ServerName::try_from(name.clone()),
            Place::Network {
                address: Some(address), ..
            } => Ok(ServerName::from(*address)),
            _ => ServerName::try_from("localhost".to_owned()),
        };
        let name = name.map_err(|_| Refusal::Tls("its name cannot be that of a certificate".to_owned()))?;
        let connected = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await;
        match connected {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Refusal::Tls(error.to_string())),
        }
    }
}

fn verifier(params: &Params, mode: SslMode, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let names = match mode {
        SslMode::VerifyFull => Names::Compared,
        _ => Names::Any,
    };
    let wrong = |error: TlsError| {
        Error::config(
            format!("the root certificates of PGSSLROOTCERT cannot be used: {error}"),
            "Name a file with certificates in PEM.",
        )
    };
    if params.get("sslrootcert") == Some("system") {
        if mode != SslMode::VerifyFull {
            return Err(Error::config(
                "PGSSLROOTCERT is \"system\", and PGSSLMODE is not \"verify-full\"",
                "Set PGSSLMODE to verify-full: anybody can get a certificate from the system's authorities.",
            ));
        }
        let inner = rustls_platform_verifier::Verifier::new(Arc::clone(provider)).map_err(wrong)?;
        return Ok(Arc::new(inner));
    }
    let file = params
        .tls_file("sslrootcert", "root.crt")
        .filter(|_| mode >= SslMode::Require);
    let Some(file) = file.filter(|file| mode > SslMode::Require || file.exists()) else {
        if mode > SslMode::Require {
            return Err(Error::config(
                "PGSSLMODE asks to verify the server's certificate, and there are no root certificates",
                "Name them by PGSSLROOTCERT, or put them into ~/.postgresql/root.crt.",
            ));
        }
        return Ok(Arc::new(Trusting(Arc::clone(provider))));
    };
    let roots = certificates(&file)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(wrong)?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider))
        .build()
        .map_err(|error| wrong(TlsError::General(error.to_string())))?;
    Ok(Arc::new(NamedCertificates::new(inner, roots, names)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(file).map_err(|error| Error::io("read", file, error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    read.ok().filter(|found| !found.is_empty()).ok_or_else(|| {
        Error::config(
            format!("\"{}\" has no certificates in PEM", file.display()),
            "Check PGSSLROOTCERT and PGSSLCERT.",
        )
    })
}

/// The client's certificate and key, if there are any.
fn own_certificate(params: &Params) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let Some(file) = params.tls_file("sslcert", "postgresql.crt") else {
        return Ok(None);
    };
    let chain = certificates(&file)?;
    let key_file = params.tls_file("sslkey", "postgresql.key").unwrap_or_default();
    let meta = std::fs::metadata(&key_file).map_err(|error| Error::io("open", &key_file, error))?;
    // PostgreSQL's own rule.
    let too_open = match meta.uid() == 0 && !geteuid().is_root() {
        true => meta.mode() & 0o037 != 0,
        false => meta.mode() & 0o077 != 0 && !(meta.uid() == 0 && meta.mode() & 0o037 == 0),
    };
    if too_open {
        return Err(Error::config(
            format!(
                "private key file \"{}\" can be read by its group or by others",
                key_file.display()
            ),
            "Set its mode to 0600, or to 0640 if root owns it.",
        ));
    }
    let bytes = std::fs::read(&key_file).map_err(|error| Error::io("read", &key_file, error))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        Error::config(
            format!(
                "\"{}\" has no private key in PEM without a passphrase",
                key_file.display()
            ),
            "Store the key without a passphrase, and name it by PGSSLKEY.",
        )
    })?;
    Ok(Some((chain, key)))
}

/// Accepts every certificate: `allow`, `prefer` and `require` only encrypt.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
