//! A verifier of servers' certificates that takes one that was named for what it is, also if it is an authority's:
//! `openssl req -x509` makes servers' certificates that are authorities at the same time, which other libraries accept when they
//! are named.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// The text of the library below rustls about an authority's certificate in a server's hands. It looks at the time first.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// Must the server have the name by which it was called?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// The certificate must have that name.
    Compared,
    /// It may have any.
    Any,
}

/// Accepts what another verifier accepts, and the certificates that were named, each for itself.
#[derive(Debug)]
pub struct NamedCertificates {
    inner: Arc<dyn ServerCertVerifier>,
    named: Vec<CertificateDer<'static>>,
    names: Names,
}

impl NamedCertificates {
    /// Around a verifier that trusts these certificates as authorities.
    pub fn new(inner: Arc<dyn ServerCertVerifier>, named: Vec<CertificateDer<'static>>, names: Names) -> Self {
        NamedCertificates { inner, named, names }
    }
}

impl ServerCertVerifier for NamedCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names == Names::Any => Ok(ServerCertVerified::assertion()),
            Err(Error::InvalidCertificate(CertificateError::Other(reason)))
                if reason.to_string().contains(AUTHORITY_AS_SERVER) && self.named.contains(end_entity) =>
            {
                if self.names == Names::Compared {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
