//! The token: asked for once for all requests, renewed before it expires and when the store no longer takes it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use super::exchange::{Answer, Body, Failure, exchange};
use super::keystone;
use super::options::{Credentials, Settings, refuse_plain};
use crate::http::Sending;
use crate::http::pool::Pool;
use crate::renewal::Followed;
use crate::transfer::retry::Attempts;

/// How long a token is believed to last when nobody says. An end before that is seen by a refusal.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// A token is renewed that long before its end at the earliest.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// After a renewal that failed, the old token is used that long before the next try.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

/// Between two attempts with credentials that are refused.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A token and where it is good.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) token: HeaderValue,
    /// Without a slash at its end.
    pub(super) storage_url: String,
    renew: Instant,
    end: Instant,
}

pub(super) struct Auth {
    settings: Arc<Followed<Settings>>,
    http: Arc<Followed<Pool>>,
    limit: Duration,
    state: Mutex<State>,
    /// Held by who asks for a token, so that the others wait for that one.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    asked: u64,
    failure: Option<Failure>,
}

impl State {
    fn usable(&self, stale: Option<u64>, now: Instant) -> Option<&Arc<Session>> {
        self.session
            .as_ref()
            .filter(|session| Some(session.number) != stale && session.end > now)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("settings", &self.settings.in_use())
            .finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(settings: Arc<Followed<Settings>>, http: Arc<Followed<Pool>>, limit: Duration) -> Self {
        Auth {
            settings,
            http,
            limit,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// A token that is good, as far as we know. `stale` is the number of one that the store did not take.
    pub(super) async fn session(&self, stale: Option<u64>, attempts: &mut Attempts) -> Result<Arc<Session>, Failure> {
        let now = Instant::now();
        let (asked, old) = {
            let state = self.state.lock();
            (state.asked, state.usable(stale, now).cloned())
        };
        let _turn = match old {
            Some(session) if session.renew > now => return Ok(session),
            // It is still good: only one has to wait for the next.
            Some(session) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(session),
            },
            None => self.turn.lock().await,
        };
        {
            let state = self.state.lock();
            if state.asked != asked {
                // Somebody else had the turn in the meantime, and found out for us.
                if let Some(session) = state.usable(stale, now) {
                    return Ok(session.clone());
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
        }
        let outcome = self.ask_until_granted(asked + 1, attempts).await;
        let mut state = self.state.lock();
        state.asked = asked.max(state.asked) + 1;
        match outcome {
            Ok(session) => {
                let session = Arc::new(session);
                state.session = Some(session.clone());
                state.failure = None;
                Ok(session)
            }
            Err(failure) => {
                let now = Instant::now();
                if let Some(old) = state.usable(stale, now).cloned() {
                    tracing::warn!(%failure, "could not renew the token of Swift; the old one is still good");
                    let old = Arc::new(Session {
                        number: old.number,
                        token: old.token.clone(),
                        storage_url: old.storage_url.clone(),
                        renew: now + RENEW_PAUSE,
                        end: old.end,
                    });
                    state.session = Some(old.clone());
                    return Ok(old);
                }
                state.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// With credentials that are read again when they are refused. If they were good before, somebody may be replacing them:
    /// that is waited for.
    async fn ask_until_granted(&self, number: u64, attempts: &mut Attempts) -> Result<Session, Failure> {
        let mut settings = self.settings.get();
        loop {
            let failure = match self.ask(&settings, number, attempts).await {
                Err(failure) if failure.is_refusal() => failure,
                outcome => return outcome,
            };
            let now = self.settings.again();
            if now.credentials == settings.credentials {
                let were_good = self.state.lock().session.is_some();
                let Some(pause) = attempts.next_pause(None).filter(|_| were_good) else {
                    return Err(failure);
                };
                tokio::time::sleep(pause.min(LONGEST_WAIT)).await;
            }
            settings = now;
        }
    }

    async fn ask(&self, settings: &Settings, number: u64, attempts: &mut Attempts) -> Result<Session, Failure> {
        let credentials = &settings.credentials;
        let (token, storage_url, lifetime) = match (credentials, keystone::request(credentials)) {
            (Credentials::TempAuth { user, key }, _) => self.tempauth(settings, user, &key.0, attempts).await?,
            (_, request) => self.keystone(settings, request.unwrap_or_default(), attempts).await?,
        };
        let storage_url = match &settings.storage_url {
            Some(url) => url.to_string(),
            None => storage_url?,
        };
        let url = Url::parse(&storage_url).map_err(|error| {
            Failure::new(format!(
                "the object store's URL \"{storage_url}\" is not a URL: {error}"
            ))
        })?;
        if let Some(reason) = refuse_plain(&url, settings.allow_http) {
            return Err(Failure::new(format!(
                "the object store's URL {reason}; or set swift_storage_url"
            )));
        }
        let now = Instant::now();
        let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME);
        Ok(Session {
            number,
            token,
            storage_url: url.as_str().trim_end_matches('/').to_owned(),
            renew: now + lifetime - (lifetime / 10).min(RENEW_BEFORE),
            end: now + lifetime,
        })
    }

    /// The token, the URL of the store and how long the token lasts.
    async fn tempauth(
        &self,
        settings: &Settings,
        user: &str,
        key: &str,
        attempts: &mut Attempts,
    ) -> Result<Granted, Failure> {
        let url = &settings.auth_url;
        let mut headers = HeaderMap::new();
        headers.insert("x-auth-user", secret_header(user)?);
        headers.insert("x-auth-key", secret_header(key)?);
        let http = self.http.get();
        let build = |http: &reqwest::Client| {
            let get = http.get(url.clone()).headers(headers.clone());
            (get, Sending::nothing())
        };
        let answer = exchange(&http, attempts, self.limit, Body::Whole, build).await;
        let answer = granted(url, answer)?;
        let token = token(&answer, "x-auth-token")?;
        let storage_url = answer
            .header("x-storage-url")
            .map(str::to_owned)
            .ok_or_else(|| Failure::new(format!("\"{url}\" gave a token, but no X-Storage-Url")));
        let lifetime = answer
            .header("x-auth-token-expires")
            .and_then(|text| text.trim().parse().ok());
        Ok((token, storage_url, lifetime.map(Duration::from_secs)))
    }

    async fn keystone(
        &self,
        settings: &Settings,
        request: String,
        attempts: &mut Attempts,
    ) -> Result<Granted, Failure> {
        let url = keystone::tokens_url(&settings.auth_url);
        let http = self.http.get();
        let build = |http: &reqwest::Client| {
            let post = http.post(url.clone());
            let post = post.header(CONTENT_TYPE, "application/json").body(request.clone());
            (post, Sending::nothing())
        };
        let answer = exchange(&http, attempts, self.limit, Body::Whole, build).await;
        let answer = granted(&settings.auth_url, answer)?;
        let token = token(&answer, "x-subject-token")?;
        let body: keystone::Answer = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::new(format!("\"{url}\" gave no answer of Keystone's: {error}")))?;
        let storage_url = body
            .endpoint(settings.region.as_deref(), &settings.interface)
            .map(str::to_owned)
            .map_err(Failure::new);
        Ok((token, storage_url, body.lifetime()))
    }
}

/// A refusal keeps its kind. Anything else that goes wrong here says nothing about the object that was wanted.
fn granted(url: &Url, answer: Result<Answer, Failure>) -> Result<Answer, Failure> {
    answer
        .and_then(Answer::success)
        .map_err(|failure| match failure.status {
            Some(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                Failure::new(format!("the credentials were refused by \"{url}\": {failure}")).with_status(status)
            }
            _ => Failure::new(format!("could not authenticate at \"{url}\": {failure}")),
        })
}

type Granted = (HeaderValue, Result<String, Failure>, Option<Duration>);

fn token(answer: &Answer, name: &str) -> Result<HeaderValue, Failure> {
    let mut token = answer
        .headers
        .get(name)
        .cloned()
        .ok_or_else(|| Failure::new(format!("the authentication succeeded, but gave no {name}")))?;
    token.set_sensitive(true);
    Ok(token)
}

fn secret_header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Failure::new("a credential holds characters that no HTTP header may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}
