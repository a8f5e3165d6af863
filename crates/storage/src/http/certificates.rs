//! Certificates that the user names.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, Result};

/// The certificates of a file. Each can be that of an authority.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(file).map_err(|error| {
        Error::config(
            format!("could not open ca_cert_file \"{}\": {error}", file.display()),
            "Put the certificates there, readable for the user of the process, or correct ca_cert_file.",
        )
    })?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    let usable = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    if found.is_empty() || !found.iter().all(usable) {
        return Err(Error::config(
            format!("ca_cert_file \"{}\" holds no certificate", file.display()),
            "It holds one or more certificates in PEM form, each between BEGIN CERTIFICATE and END CERTIFICATE.",
        ));
    }
    Ok(found)
}
