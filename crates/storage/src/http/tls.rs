//! Whom to trust. A certificate that is named by `ca_cert_file` is trusted as an authority, and as the certificate of the
//! server itself.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, Error, OtherError, RootCertStore};
use rustls_platform_verifier::Verifier;

use crate::certificate::{NamedCertificates, Names};

/// The configuration that a client of HTTPS needs. The authorities of the system count if `system` is true.
pub(super) fn config(
    trusted: &[CertificateDer<'static>],
    system: bool,
    protocols: &[&str],
) -> Result<ClientConfig, Error> {
    let default = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(default);
    let verifier = verifier(trusted, system, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn verifier(
    trusted: &[CertificateDer<'static>],
    system: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let inner: Arc<dyn ServerCertVerifier> = if system {
        Arc::new(Verifier::new_with_extra_roots(
            trusted.iter().cloned(),
            provider.clone(),
        )?)
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.clone())?;
        }
        WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| Error::Other(OtherError(Arc::new(error))))?
    };
    Ok(if trusted.is_empty() {
        inner
    } else {
        Arc::new(NamedCertificates::new(inner, trusted.to_vec(), Names::Compared))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// As `openssl req -x509` makes it, for 127.0.0.1, good for two days.
    fn self_signed() -> CertificateDer<'static> {
        let dir = tempfile::tempdir().expect("a directory");
        let (key, file) = (dir.path().join("key"), dir.path().join("cert"));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]);
        openssl.args([
            "-days",
            "2",
            "-subj",
            "/CN=store",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]);
        let made = openssl
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(&file)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        CertificateDer::from_pem_slice(&std::fs::read(file).expect("read")).expect("a certificate")
    }

    #[test]
    fn a_servers_own_certificate_is_good_for_its_name_and_its_time_only() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (mine, other) = (self_signed(), self_signed());
        let verify = |trusted: &CertificateDer<'static>, name: &str, ahead: u64| {
            let verifier = verifier(std::slice::from_ref(trusted), false, &provider).expect("a verifier");
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            let now = Duration::from_secs(UnixTime::now().as_secs() + ahead);
            verifier
                .verify_server_cert(&mine, &[], &name, &[], UnixTime::since_unix_epoch(now))
                .map(|_| ())
        };
        verify(&mine, "127.0.0.1", 0).expect("accepted");
        let expired = verify(&mine, "127.0.0.1", 3 * 86_400).expect_err("too old");
        assert!(format!("{expired:?}").contains("Expired"), "{expired:?}");
        let elsewhere = verify(&mine, "127.0.0.2", 0).expect_err("another name");
        assert!(format!("{elsewhere:?}").contains("NotValidForName"), "{elsewhere:?}");
        verify(&other, "127.0.0.1", 0).expect_err("not the one that was named");
    }
}
