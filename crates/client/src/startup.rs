//! The beginning of a connection: TLS, the startup message, authentication.

use std::collections::BTreeMap;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use walarchive_core::{Error, Result};

use crate::error::{INVALID_AUTHORIZATION, Notice, Refusal};
use crate::hosts::Host;
use crate::params::Params;
use crate::passfile::Wanted;
use crate::stream::{self, Stream};
use crate::tls::{SslMode, Tls};
use crate::wire::{Incoming, Wire};

/// The name of this program on the server, unless PGAPPNAME gives one.
const APPLICATION: &str = "walarchive";

/// How far one attempt encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    Off,
    IfOffered,
    Required,
}

/// Common parts of all attempts.
pub(crate) struct Plan {
    pub(crate) user: String,
    /// Of the startup message.
    pub(crate) database: Option<String>,
    /// The value of `replication` in the startup message.
    pub(crate) replication: Option<&'static str>,
    pub(crate) mode: SslMode,
    pub(crate) tls: Tls,
    pub(crate) timeout: Duration,
    params: Params,
}

/// A connection on which statements may be sent.
pub(crate) struct Started {
    pub(crate) wire: Wire,
    pub(crate) parameters: BTreeMap<String, String>,
    /// Process and secret of the server's side, to cancel.
    pub(crate) key: Option<(i32, i32)>,
    pub(crate) encryption: Encryption,
}

impl Plan {
    pub(crate) fn new(params: &Params, replication: Option<&'static str>) -> Result<Self> {
        let mode = SslMode::of(params)?;
        let database = params.get("dbname").map(str::to_owned);
        Ok(Plan {
            user: params.user()?,
            database: database.filter(|_| replication.is_none()),
            replication,
            mode,
            tls: Tls::new(params, mode)?,
            timeout: params.connect_timeout()?,
            params: params.clone(),
        })
    }

    /// The same for a session for SQL in that database, which begins with these settings.
    pub(crate) fn in_database(&self, database: &str, settings: &[(&str, &str)]) -> Self {
        Plan {
            user: self.user.clone(),
            database: Some(database.to_owned()),
            replication: None,
            mode: self.mode,
            tls: self.tls.clone(),
            timeout: self.timeout,
            params: self.params.with_settings(settings),
        }
    }

    /// The attempts at a host. The second is made if the server refused the first because of its encryption.
    fn attempts(&self, host: &Host) -> &'static [Encryption] {
        match self.mode {
            _ if host.socket().is_some() => &[Encryption::Off],
            SslMode::Disable => &[Encryption::Off],
            SslMode::Allow => &[Encryption::Off, Encryption::Required],
            SslMode::Prefer => &[Encryption::IfOffered, Encryption::Off],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Required],
        }
    }

    /// Connect to that host.
    pub(crate) async fn start(&self, host: &Host) -> Result<Started, Refusal> {
        let attempts = self.attempts(host);
        for (index, encryption) in attempts.iter().enumerate() {
            let is_last = index + 1 == attempts.len();
            let started = match tokio::time::timeout(self.timeout, self.attempt(host, *encryption)).await {
                Ok(started) => started,
                Err(_elapsed) => Err(Refusal::Unreachable(format!(
                    "no answer within {} s",
                    self.timeout.as_secs()
                ))),
            };
            match started {
                Err(Refusal::Tls(_)) if !is_last => {}
                Err(Refusal::Server(notice)) if !is_last && notice.code == INVALID_AUTHORIZATION => {}
                started => return started,
            }
        }
        Err(Refusal::Unreachable("nothing was tried".to_owned()))
    }

    async fn attempt(&self, host: &Host, encryption: Encryption) -> Result<Started, Refusal> {
        let stream = self.stream(host, encryption).await?;
        let mut starting = Starting {
            wire: Wire::new(stream),
            parameters: BTreeMap::new(),
            key: None,
        };
        starting.greet(self).await?;
        starting.authenticate(self, host).await?;
        starting.wait_ready().await?;
        Ok(Started {
            wire: starting.wire,
            parameters: starting.parameters,
            key: starting.key,
            encryption,
        })
    }

    /// The stream to a host, encrypted or not.
    pub(crate) async fn stream(&self, host: &Host, encryption: Encryption) -> Result<Box<dyn Stream>, Refusal> {
        let mut stream = stream::open(host, self.params.get("requirepeer")).await?;
        if encryption == Encryption::Off {
            return Ok(stream);
        }
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        stream.flush().await?;
        // Exactly one byte: nothing that came before TLS may count as said within it.
        match stream.read_u8().await? {
            b'S' => self.tls.wrap(stream, host).await,
            b'N' if encryption == Encryption::IfOffered => Ok(stream),
            b'N' => Err(Refusal::Tls("the server does not offer TLS".to_owned())),
            _ => Err(Refusal::Unreachable("what answers is no PostgreSQL server".to_owned())),
        }
    }

    fn password(&self, host: &Host) -> Result<String, Refusal> {
        let port = host.port.to_string();
        let wanted = Wanted {
            host: &host.in_passfile,
            port: &port,
            database: match self.replication {
                Some(_) => "replication",
                None => self.database.as_deref().unwrap_or(&self.user),
            },
            user: &self.user,
        };
        self.params.password(&wanted).ok_or_else(|| {
            Refusal::Here(Error::config(
                format!(
                    "the server at {host} asks for the password of role \"{}\", and there is none",
                    self.user
                ),
                "Set PGPASSWORD, or put the password into ~/.pgpass, which only its owner may read.",
            ))
        })
    }
}

/// A connection that is not ready yet.
struct Starting {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    key: Option<(i32, i32)>,
}

impl Starting {
    async fn greet(&mut self, plan: &Plan) -> Result<(), Refusal> {
        let given = |keyword: &str| plan.params.get(keyword);
        let mut pairs = vec![
            ("user", plan.user.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", given("application_name").unwrap_or(APPLICATION)),
        ];
        pairs.extend(plan.database.as_deref().map(|database| ("database", database)));
        pairs.extend(plan.replication.map(|value| ("replication", value)));
        pairs.extend(given("options").map(|options| ("options", options)));
        Ok(self
            .wire
            .send(|buffer| frontend::startup_message(pairs, buffer))
            .await?)
    }

    /// The next message that is not news.
    async fn next(&mut self) -> Result<Message, Refusal> {
        loop {
            let Incoming::Message(message) = self.wire.next().await? else {
                return Err(unexpected());
            };
            match message {
                Message::ErrorResponse(body) => return Err(Refusal::Server(Notice::of(body.fields())?)),
                Message::NoticeResponse(body) => {
                    tracing::debug!(message = Notice::of(body.fields())?.message, "the server says");
                }
                Message::ParameterStatus(body) => {
                    let (name, value) = (body.name()?.to_owned(), body.value().unwrap_or_default().to_owned());
                    self.parameters.insert(name, value);
                }
                other => return Ok(other),
            }
        }
    }

    async fn authenticate(&mut self, plan: &Plan, host: &Host) -> Result<(), Refusal> {
        loop {
            match self.next().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    let password = plan.password(host)?;
                    self.send_password(password.as_bytes()).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = plan.password(host)?;
                    let hash = md5_hash(plan.user.as_bytes(), password.as_bytes(), body.salt());
                    self.send_password(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => self.scram(&body, plan, host).await?,
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential
                | Message::AuthenticationSspi => return Err(unknown_method(host)),
                _ => return Err(unexpected()),
            }
        }
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<(), Refusal> {
        Ok(self
            .wire
            .send(|buffer| frontend::password_message(password, buffer))
            .await?)
    }

    /// Returns only if the server has proved that it knows the password, too.
    async fn scram(&mut self, body: &AuthenticationSaslBody, plan: &Plan, host: &Host) -> Result<(), Refusal> {
        let mut mechanisms = body.mechanisms();
        let mut is_offered = false;
        while let Some(mechanism) = mechanisms.next()? {
            is_offered |= mechanism == SCRAM_SHA_256;
        }
        if !is_offered {
            return Err(unknown_method(host));
        }
        let password = plan.password(host)?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.wire
            .send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, &first, buffer))
            .await?;
        let Message::AuthenticationSaslContinue(body) = self.next().await? else {
            return Err(unexpected());
        };
        scram.update(body.data())?;
        let second = scram.message().to_vec();
        self.wire
            .send(|buffer| frontend::sasl_response(&second, buffer))
            .await?;
        let Message::AuthenticationSaslFinal(body) = self.next().await? else {
            return Err(unexpected());
        };
        Ok(scram.finish(body.data())?)
    }

    async fn wait_ready(&mut self) -> Result<(), Refusal> {
        loop {
            match self.next().await? {
                Message::BackendKeyData(body) => self.key = Some((body.process_id(), body.secret_key())),
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(unexpected()),
            }
        }
    }
}

fn unexpected() -> Refusal {
    Refusal::Unreachable("it sent a message that does not belong to the start of a connection".to_owned())
}

fn unknown_method(host: &Host) -> Refusal {
    Refusal::Here(Error::config(
        format!("the server at {host} asks for an authentication that walarchive does not know"),
        "Let pg_hba.conf ask for scram-sha-256, md5, password, cert, peer or trust for this role.",
    ))
}
