//! The texts of Keystone's API, version 3.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::options::{Credentials, Domain, Named};

/// The place where tokens are made. Users give the URL with the version or without it.
pub(super) fn tokens_url(auth_url: &Url) -> Url {
    let mut url = auth_url.clone();
    let path = url
        .path()
        .trim_end_matches('/')
        .trim_end_matches("/auth/tokens")
        .to_owned();
    let version = if path.ends_with("/v3") { "" } else { "/v3" };
    url.set_path(&format!("{path}{version}/auth/tokens"));
    url
}

/// The body of the request for a token; none for credentials that are not Keystone's.
pub(super) fn request(credentials: &Credentials) -> Option<String> {
    let (identity, scope) = match credentials {
        Credentials::Password {
            user,
            password,
            project,
        } => {
            let mut user = named(user);
            user["password"] = json!(password.0);
            let identity = json!({"methods": ["password"], "password": {"user": user}});
            (identity, Some(json!({"project": named(project)})))
        }
        // An application credential belongs to a project already.
        Credentials::ApplicationId { id, secret } => (application(json!({"id": id, "secret": secret.0})), None),
        Credentials::ApplicationName { name, user, secret } => {
            let credential = json!({"name": name, "secret": secret.0, "user": named(user)});
            (application(credential), None)
        }
        Credentials::TempAuth { .. } => return None,
    };
    let mut auth = json!({"identity": identity});
    if let Some(scope) = scope {
        auth["scope"] = scope;
    }
    Some(json!({"auth": auth}).to_string())
}

fn application(credential: Value) -> Value {
    json!({"methods": ["application_credential"], "application_credential": credential})
}

fn named(who: &Named) -> Value {
    match who {
        Named::Id(id) => json!({"id": id}),
        Named::Name {
            name,
            domain: Domain::Id(id),
        } => json!({"name": name, "domain": {"id": id}}),
        Named::Name {
            name,
            domain: Domain::Name(domain),
        } => json!({"name": name, "domain": {"name": domain}}),
    }
}

/// The body of the answer, as far as it concerns us.
#[derive(Deserialize)]
pub(super) struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    issued_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region.as_deref().or(self.region_id.as_deref()).unwrap_or_default()
    }
}

impl Answer {
    /// How long the token is good for. Both times are by the server's clock, so ours may be wrong.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let issued = self.token.issued_at.unwrap_or_else(Utc::now);
        (self.token.expires_at? - issued).to_std().ok()
    }

    /// The place of the project's objects, or why that cannot be told.
    pub(super) fn endpoint(&self, region: Option<&str>, interface: &str) -> Result<&str, String> {
        let services = self
            .token
            .catalog
            .iter()
            .filter(|service| service.kind == "object-store");
        let all: Vec<&Endpoint> = services
            .flat_map(|service| &service.endpoints)
            .filter(|endpoint| endpoint.interface == interface)
            .collect();
        if all.is_empty() {
            return Err(format!(
                "Keystone's catalog has no object-store with the interface \"{interface}\""
            ));
        }
        let mut regions: Vec<&str> = all.iter().map(|endpoint| endpoint.region()).collect();
        regions.sort_unstable();
        regions.dedup();
        let regions = regions.join("\", \"");
        match region {
            Some(region) => all
                .iter()
                .find(|endpoint| endpoint.region() == region || endpoint.region_id.as_deref() == Some(region))
                .map(|endpoint| endpoint.url.as_str())
                .ok_or_else(|| {
                    format!("Keystone's catalog has no object-store in the region \"{region}\", but in \"{regions}\"")
                }),
            None if all.iter().all(|endpoint| endpoint.url == all[0].url) => Ok(&all[0].url),
            None => Err(format!(
                "Keystone's catalog has an object-store in each of the regions \"{regions}\": choose one by OS_REGION_NAME"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::swift::options::Secret;

    #[test]
    fn the_url_may_have_its_version_or_not() {
        for (given, expected) in [
            ("https://k:5000", "https://k:5000/v3/auth/tokens"),
            ("https://k:5000/v3", "https://k:5000/v3/auth/tokens"),
            ("https://k/identity/", "https://k/identity/v3/auth/tokens"),
            ("https://k/identity/v3/auth/tokens", "https://k/identity/v3/auth/tokens"),
        ] {
            assert_eq!(tokens_url(&Url::parse(given).expect("a URL")).as_str(), expected);
        }
    }

    #[test]
    fn requests_are_keystones() {
        let credentials = Credentials::Password {
            user: Named::Name {
                name: "me".into(),
                domain: Domain::Name("D".into()),
            },
            password: Secret("p".into()),
            project: Named::Id("42".into()),
        };
        let body: Value = serde_json::from_str(&request(&credentials).expect("a body")).expect("JSON");
        let user = json!({"name": "me", "domain": {"name": "D"}, "password": "p"});
        assert_eq!(
            body["auth"]["identity"],
            json!({"methods": ["password"], "password": {"user": user}})
        );
        assert_eq!(body["auth"]["scope"], json!({"project": {"id": "42"}}));
        let credentials = Credentials::ApplicationId {
            id: "i".into(),
            secret: Secret("s".into()),
        };
        let body: Value = serde_json::from_str(&request(&credentials).expect("a body")).expect("JSON");
        assert_eq!(
            body["auth"]["identity"]["application_credential"],
            json!({"id": "i", "secret": "s"})
        );
        assert_eq!(body["auth"].get("scope"), None);
    }

    #[test]
    fn the_endpoint_is_that_of_the_region() {
        let endpoint =
            |region: &str| json!({"interface": "public", "region": region, "url": format!("https://{region}")});
        let catalog =
            json!([{"type": "identity"}, {"type": "object-store", "endpoints": [endpoint("eu"), endpoint("us")]}]);
        let times = json!({"issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2026-01-01T01:00:00Z", "catalog": catalog});
        let answer: Answer = serde_json::from_value(json!({"token": times})).expect("an answer");
        assert_eq!(answer.lifetime(), Some(Duration::from_secs(3600)));
        assert_eq!(answer.endpoint(Some("us"), "public"), Ok("https://us"));
        let error = answer.endpoint(Some("mars"), "public").expect_err("no such region");
        assert!(
            error.contains("\"mars\"") && error.contains("\"eu\", \"us\""),
            "{error}"
        );
        assert!(
            answer
                .endpoint(None, "public")
                .expect_err("two")
                .contains("OS_REGION_NAME")
        );
        assert!(
            answer
                .endpoint(Some("us"), "admin")
                .expect_err("none")
                .contains("admin")
        );
    }
}
