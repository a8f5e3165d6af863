//! A client that signs each attempt again, reads credentials again when they are denied, and takes certificates that change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use rustls::pki_types::CertificateDer;

use super::verdict::{self, Verdict};
use super::{Followed, LOOK_EVERY, Signer, Watch};
use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::http;
use crate::http::Connector;
use crate::http::certificates::certificates;
use crate::odd::Odd;
use crate::transfer::retry::Retry;

/// Attempts with other credentials, or with a clock that was never accepted, until a denial is believed.
const BELIEVED_AFTER: u32 = 3;

/// The pause before an attempt with other credentials.
const AT_ONCE: Duration = Duration::from_millis(100);

/// The certificates that a client trusts, and its other options.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    /// None if they are the system's.
    pub(crate) file: Option<PathBuf>,
    pub(crate) options: ClientOptions,
}

impl Trust {
    /// Reads the file.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.file.as_deref().map_or_else(|| Ok(Vec::new()), certificates)
    }

    /// The way to the network with the certificates that the file holds now.
    pub(crate) fn connector(&self, config: &StorageConfig) -> Result<Connector> {
        let mut connector = http::connector(config);
        connector.trusted = self.certificates()?;
        Ok(connector)
    }
}

/// Makes clients that do so.
#[derive(Debug, Clone)]
pub(crate) struct Renewed {
    connector: Connector,
    retry: Retry,
    trust: Trust,
    /// None if requests are not signed.
    signer: Option<Arc<dyn Signer>>,
}

impl Renewed {
    pub(crate) fn new(config: &StorageConfig, trust: Trust, signer: Option<Arc<dyn Signer>>) -> Result<Self> {
        Ok(Renewed {
            connector: trust.connector(config)?,
            retry: Retry::new(config),
            trust,
            signer,
        })
    }

    /// Names that listings pass over.
    pub(crate) fn odd(&self) -> Arc<Odd> {
        self.connector.odd.clone()
    }

    /// The client, with the certificates that its file holds then.
    fn follow(&self, first: HttpClient, options: &ClientOptions) -> Result<Followed<HttpClient>> {
        let (connector, trust, options) = (self.connector.clone(), self.trust.clone(), options.clone());
        Followed::new("certificates", move |old| {
            let mut watch = Watch::default();
            if let Some(file) = &trust.file {
                watch.add(file);
            }
            if old.is_none() {
                return Ok((first.clone(), watch));
            }
            let mut connector = connector.clone();
            connector.trusted = trust.certificates()?;
            let client = connector.connect(&options);
            let client = client.map_err(|error| Error::config(error.to_string(), "Check ca_cert_file."))?;
            Ok((client, watch))
        })
    }
}

impl HttpConnector for Renewed {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.connector.connect(options)?;
        let client = self
            .follow(client, options)
            .map_err(|error| object_store::Error::Generic {
                store: "HTTP",
                source: Box::new(error),
            })?;
        Ok(HttpClient::new(Service {
            with: self.clone(),
            client,
        }))
    }
}

struct Service {
    with: Renewed,
    client: Followed<HttpClient>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("with", &self.with)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// The answer to a HEAD has no text. The same request as a GET says why it is refused.
    async fn ask_why(&self, signer: &dyn Signer, request: &HttpRequest) -> Option<Verdict> {
        let mut probe = request.clone();
        *probe.method_mut() = "GET".parse().ok()?;
        probe.headers_mut().insert("range", "bytes=0-0".parse().ok()?);
        signer.sign(&mut probe).await.ok()?;
        let response = self.client.get().execute(probe).await.ok()?;
        verdict::of(response).await.ok().map(|(_, verdict)| verdict)
    }
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let signer = match &self.with.signer {
            Some(signer) if signer.is_signed(&request) => signer,
            _ => return self.client.get().execute(request).await,
        };
        let mut attempts = self.with.retry.begin();
        let (mut changes, mut skews, mut waits) = (0, 0, 0);
        loop {
            let mut attempt = request.clone();
            let number = match signer.sign(&mut attempt).await {
                Ok(number) => number,
                Err(error) => {
                    // It is signed with the credentials that object_store was given a moment ago.
                    tracing::debug!(%error, "no credentials for another attempt");
                    attempt = request.clone();
                    0
                }
            };
            let (response, mut verdict) = verdict::of(self.client.get().execute(attempt).await?).await?;
            if verdict == (Verdict::Denied { mute: true }) && signer.were_accepted() {
                // If that one is accepted, the credentials were replaced just between.
                let why = self.ask_why(&**signer, &request).await;
                verdict = why.filter(|why| *why != Verdict::Accepted).unwrap_or(verdict);
            }
            // If the store accepted requests before, the work's whole patience is for those who replace the credentials, or set
            // the clock.
            let is_patient = signer.were_accepted() || skews < BELIEVED_AFTER;
            let again = match verdict {
                Verdict::Accepted => {
                    signer.note_acceptance();
                    return Ok(response);
                }
                Verdict::Other => return Ok(response),
                Verdict::TooSlow => attempts.next_pause(None),
                Verdict::Skewed(skew) => match attempts.next_pause(None).filter(|_| is_patient) {
                    Some(pause) => {
                        skews += 1;
                        Some(pause)
                    }
                    None => return Err(HttpError::new(HttpErrorKind::Unknown, skew)),
                },
                Verdict::Credentials | Verdict::Denied { .. } if signer.others_than(number).await => {
                    changes += 1;
                    // A new token that may do no more than the old one is no news.
                    let enough = if verdict == Verdict::Credentials {
                        BELIEVED_AFTER
                    } else {
                        1
                    };
                    (changes <= enough).then_some(AT_ONCE)
                }
                Verdict::Credentials if signer.were_accepted() => attempts.next_pause(None),
                // A secret whose end is still to be written.
                Verdict::Credentials if signer.is_fresh() && waits < BELIEVED_AFTER => {
                    waits += 1;
                    Some(LOOK_EVERY)
                }
                Verdict::Credentials | Verdict::Denied { .. } => None,
            };
            let Some(pause) = again else { return Ok(response) };
            tracing::debug!(status = %response.status(), ?verdict, ?pause, "a request is signed and sent again");
            signer.pause(pause).await;
        }
    }
}
