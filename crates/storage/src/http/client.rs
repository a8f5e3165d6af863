//! A client of reqwest's as object_store's options describe it. object_store would make one that follows redirections, with
//! all headers that it does not know to be secret.

use std::time::Duration;

use object_store::{ClientConfigKey as Key, ClientOptions};
use reqwest::{NoProxy, Proxy, redirect};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::addresses::Shuffled;
use super::opened;
use super::pool::Pool;
use super::tls;

/// A peer that has sent nothing for so long is asked whether it is there; three questions that are not answered end the
/// connection.
const KEEPALIVE: Duration = Duration::from_secs(15);
const QUESTIONS: u32 = 3;

/// A connection ends when its peer has acknowledged nothing, or taken nothing, for so long. That an upload stalls is seen
/// sooner, by what the network takes of it; this is for what is handed over and not answered. It must not be short: the kernel
/// counts from the first time that the peer's window was full, also if the window opens now and then by less than it has to
/// send, as before a proxy whose own link is slow.
const VANISHED: Duration = Duration::from_secs(300);

pub(crate) const USER_AGENT: &str = concat!("walarchive/", env!("CARGO_PKG_VERSION"));

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The options, read once.
struct Wanted {
    /// A connection ends when the peer takes nothing for so long.
    patience: Duration,
    user_agent: String,
    proxy: Option<Proxy>,
    durations: Vec<(Key, Duration)>,
    most_idle: Option<usize>,
    frame_size: Option<u32>,
    flags: Vec<Key>,
    tls: Option<ClientConfig>,
}

/// The clients for these options, that trust these certificates too.
pub(super) fn pool(
    options: &ClientOptions,
    trusted: &[CertificateDer<'static>],
    request_timeout: Duration,
) -> object_store::Result<Pool> {
    let failed = |source: Failure| object_store::Error::Generic {
        store: "HTTP client",
        source,
    };
    let wanted = Wanted::read(options, trusted, request_timeout.max(VANISHED)).map_err(failed)?;
    Pool::new(move || wanted.builder().build()).map_err(|error| failed(error.into()))
}

impl Wanted {
    fn read(options: &ClientOptions, trusted: &[CertificateDer<'static>], patience: Duration) -> Result<Self, Failure> {
        let text = |key: Key| options.get_config_value(&key);
        let is = |key: Key| text(key).is_some_and(|value| crate::config::is_true(&value));
        let mut wanted = Wanted {
            patience,
            user_agent: text(Key::UserAgent).unwrap_or_else(|| USER_AGENT.to_owned()),
            proxy: None,
            durations: Vec::new(),
            most_idle: text(Key::PoolMaxIdlePerHost).map(|number| number.parse()).transpose()?,
            frame_size: text(Key::Http2MaxFrameSize).map(|number| number.parse()).transpose()?,
            flags: Vec::new(),
            tls: None,
        };
        for key in [
            Key::Timeout,
            Key::ConnectTimeout,
            Key::ReadTimeout,
            Key::PoolIdleTimeout,
            Key::Http2KeepAliveInterval,
            Key::Http2KeepAliveTimeout,
        ] {
            if let Some(value) = text(key) {
                wanted.durations.push((key, humantime::parse_duration(&value)?));
            }
        }
        for key in [
            Key::AllowHttp,
            Key::Http1Only,
            Key::Http2Only,
            Key::Http2KeepAliveWhileIdle,
            Key::AllowInvalidCertificates,
            Key::NoSystemCertificates,
            Key::RandomizeAddresses,
        ] {
            if is(key) {
                wanted.flags.push(key);
            }
        }
        let mut trusted = trusted.to_vec();
        if let Some(url) = text(Key::ProxyUrl) {
            let mut proxy = Proxy::all(url)?;
            if let Some(pem) = text(Key::ProxyCaCertificate) {
                trusted.push(CertificateDer::from_pem_slice(pem.as_bytes())?);
            }
            if let Some(hosts) = text(Key::ProxyExcludes) {
                proxy = proxy.no_proxy(NoProxy::from_string(&hosts));
            }
            wanted.proxy = Some(proxy);
        }
        if !wanted.has(Key::AllowInvalidCertificates) {
            let protocols: &[&str] = match (wanted.has(Key::Http1Only), wanted.has(Key::Http2Only)) {
                (_, true) => &["h2"],
                (true, false) => &["http/1.1"],
                (false, false) => &["h2", "http/1.1"],
            };
            wanted.tls = Some(tls::config(
                &trusted,
                !wanted.has(Key::NoSystemCertificates),
                protocols,
            )?);
        }
        Ok(wanted)
    }

    fn has(&self, flag: Key) -> bool {
        self.flags.contains(&flag)
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_keepalive_retries(QUESTIONS)
            .tcp_user_timeout(self.patience)
            .connector_layer(opened::layer())
            // None of the stores' protocols needs one, and secrets are not for whoever sends a redirection.
            .redirect(redirect::Policy::none())
            .https_only(!self.has(Key::AllowHttp));
        builder = match &self.tls {
            Some(tls) => builder.tls_backend_preconfigured(tls.clone()),
            None => builder.tls_danger_accept_invalid_certs(true),
        };
        if self.has(Key::RandomizeAddresses) {
            builder = builder.dns_resolver(Shuffled);
        }
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        for (key, value) in &self.durations {
            builder = match key {
                Key::Timeout => builder.timeout(*value),
                Key::ConnectTimeout => builder.connect_timeout(*value),
                Key::ReadTimeout => builder.read_timeout(*value),
                Key::PoolIdleTimeout => builder.pool_idle_timeout(*value),
                Key::Http2KeepAliveInterval => builder.http2_keep_alive_interval(*value),
                _ => builder.http2_keep_alive_timeout(*value),
            };
        }
        if let Some(most) = self.most_idle {
            builder = builder.pool_max_idle_per_host(most);
        }
        if let Some(size) = self.frame_size {
            builder = builder.http2_max_frame_size(size);
        }
        if self.has(Key::Http2KeepAliveWhileIdle) {
            builder = builder.http2_keep_alive_while_idle(true);
        }
        match (self.has(Key::Http1Only), self.has(Key::Http2Only)) {
            (_, true) => builder.http2_prior_knowledge(),
            (true, false) => builder.http1_only(),
            (false, false) => builder,
        }
    }
}
