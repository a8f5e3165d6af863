//! Proving who we are: by key file, by password, by agent.

use russh::MethodKind;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey};

use super::config::{Secret, Settings};
use super::connect::Client;
use super::failure::{Failure, lost};

/// Keys of an agent that are tried: servers hang up after six attempts, and there may be three key files before.
const AGENT_KEYS: usize = 3;

/// Questions of a server that asks for a password by keyboard-interactive.
const QUESTIONS: usize = 5;

/// The methods that were tried, and those that the server would have taken.
#[derive(Default)]
struct Attempts {
    rejected: Vec<String>,
    problems: Vec<String>,
    allowed: Vec<MethodKind>,
}

/// In this order, until one is accepted: the key file that was named (or, if neither that nor a password was given, the usual
/// ones), the password, the agent's keys.
pub(super) async fn authenticate(handle: &mut Handle<Client>, settings: &Settings) -> Result<(), Failure> {
    let mut attempts = Attempts::default();
    if by_key_files(handle, settings, &mut attempts).await? {
        return Ok(());
    }
    if let Some(password) = &settings.password
        && by_password(handle, settings, password, &mut attempts).await?
    {
        return Ok(());
    }
    if by_agent(handle, settings, &mut attempts).await? {
        return Ok(());
    }
    attempts.problems.extend(settings.passed_over.iter().cloned());
    Err(attempts.failure(settings))
}

impl Attempts {
    /// True: we are in. An error: there is nobody to go on with.
    fn take(&mut self, what: String, result: &AuthResult, handle: &Handle<Client>) -> Result<bool, Failure> {
        let AuthResult::Failure {
            remaining_methods,
            partial_success,
        } = result
        else {
            return Ok(true);
        };
        // The library says the same of a server that hung up: that one has rejected nothing.
        let hung_up = remaining_methods.is_empty() && handle.is_closed();
        if !remaining_methods.is_empty() {
            self.allowed = remaining_methods.to_vec();
        }
        match partial_success {
            true => self.problems.push(format!("{what} was accepted but does not suffice")),
            false if hung_up => {}
            false => self.rejected.push(what),
        }
        self.alive(handle).map(|()| false)
    }

    fn alive(&self, handle: &Handle<Client>) -> Result<(), Failure> {
        match (handle.is_closed(), self.rejected.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => Err(lost(
                "The server closed the connection while it was asked to let us in.",
            )),
            (true, false) => Err(Failure::Refused(format!(
                "The server rejected {} and closed the connection.",
                self.rejected.join(", ")
            ))),
        }
    }

    fn failure(self, settings: &Settings) -> Failure {
        let problems = match self.problems.is_empty() {
            true => String::new(),
            false => format!(" Also: {}.", self.problems.join("; ")),
        };
        if self.rejected.is_empty() {
            return Failure::NoCredentials(format!(
                "No key file, password or agent is available to log in to {}:{} as \"{}\".{problems}",
                settings.host, settings.port, settings.user
            ));
        }
        let allowed: Vec<&str> = self.allowed.iter().map(<&str>::from).collect();
        Failure::Refused(format!(
            "The server rejected, for user \"{}\", {}. It would take: {}.{problems}",
            settings.user,
            self.rejected.join(", "),
            if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            },
        ))
    }
}

async fn by_key_files(
    handle: &mut Handle<Client>,
    settings: &Settings,
    attempts: &mut Attempts,
) -> Result<bool, Failure> {
    for file in &settings.keys {
        let hash = hash(handle, &file.key.algorithm()).await?;
        let key = PrivateKeyWithHashAlg::new(file.key.clone(), hash);
        let result = handle.authenticate_publickey(&settings.user, key).await?;
        if attempts.take(file.to_string(), &result, handle)? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn by_agent(handle: &mut Handle<Client>, settings: &Settings, attempts: &mut Attempts) -> Result<bool, Failure> {
    let Some(socket) = &settings.agent else {
        return Ok(false);
    };
    let problem = |error: russh::keys::Error| format!("the agent at \"{}\": {error}", socket.display());
    let asked = async {
        let mut agent = AgentClient::connect_uds(socket).await?;
        // Agents that know nothing of it say no.
        if let Some(binding) = handle.agent_session_binding() {
            let _ = agent.bind_session(binding, false).await;
        }
        let identities = agent.request_identities().await?;
        Ok((agent, identities))
    };
    let (mut agent, identities) = match asked.await {
        Ok(found) => found,
        Err(error) => {
            attempts.problems.push(problem(error));
            return Ok(false);
        }
    };
    let keys = identities.iter().filter_map(|identity| match identity {
        AgentIdentity::PublicKey { key, .. } => Some(key),
        AgentIdentity::Certificate { .. } => None,
    });
    let keys: Vec<&PublicKey> = keys.take(AGENT_KEYS).collect();
    if keys.is_empty() {
        attempts
            .problems
            .push(format!("the agent at \"{}\" has no keys", socket.display()));
    }
    for key in keys {
        let hash = hash(handle, &key.algorithm()).await?;
        let result = handle
            .authenticate_publickey_with(&settings.user, key.clone(), hash, &mut agent)
            .await;
        match result {
            Ok(result) => {
                let what = format!(
                    "the agent's {} key {}",
                    key.algorithm(),
                    key.fingerprint(HashAlg::Sha256)
                );
                if attempts.take(what, &result, handle)? {
                    return Ok(true);
                }
            }
            Err(error) => {
                attempts
                    .problems
                    .push(format!("the agent at \"{}\": {error}", socket.display()));
                attempts.alive(handle)?;
            }
        }
    }
    Ok(false)
}

async fn by_password(
    handle: &mut Handle<Client>,
    settings: &Settings,
    password: &Secret,
    attempts: &mut Attempts,
) -> Result<bool, Failure> {
    let result = handle.authenticate_password(&settings.user, &password.0).await?;
    if attempts.take("the password".to_owned(), &result, handle)? {
        return Ok(true);
    }
    let asks = attempts.allowed.contains(&MethodKind::KeyboardInteractive);
    if attempts.allowed.contains(&MethodKind::Password) || !asks {
        return Ok(false);
    }
    // A server that takes passwords only as answers to its questions.
    let mut step = handle
        .authenticate_keyboard_interactive_start(&settings.user, None)
        .await?;
    for _ in 0..QUESTIONS {
        match step {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => {
                attempts
                    .rejected
                    .push("the password as an answer to its question".to_owned());
                return attempts.alive(handle).map(|()| false);
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answer = |echo: bool| if echo { String::new() } else { password.0.clone() };
                let answers = prompts.iter().map(|prompt| answer(prompt.echo)).collect();
                step = handle.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
    attempts
        .problems
        .push("the server asks for more than a password".to_owned());
    Ok(false)
}

/// How an RSA key is to sign: servers no longer take SHA-1.
async fn hash(handle: &Handle<Client>, algorithm: &Algorithm) -> Result<Option<HashAlg>, Failure> {
    if !matches!(algorithm, Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    Ok(handle.best_supported_rsa_hash().await?.unwrap_or(Some(HashAlg::Sha256)))
}
