//! Our name and the place of Swift: from the environment, the credentials file and the options of the store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::backends::credentials;
use crate::config::StorageConfig;
use crate::error::{Error, Result};

/// Every key that is taken. Those of OpenStack's own tools are looked up in the environment too, in upper case.
const KEYS: [&str; 29] = [
    "allow_http",
    "ca_cert_file",
    "os_application_credential_id",
    "os_application_credential_name",
    "os_application_credential_secret",
    "os_auth_type",
    "os_auth_url",
    "os_cacert",
    "os_endpoint_type",
    "os_identity_api_version",
    "os_interface",
    "os_password",
    "os_project_domain_id",
    "os_project_domain_name",
    "os_project_id",
    "os_project_name",
    "os_region_name",
    "os_storage_url",
    "os_tenant_id",
    "os_tenant_name",
    "os_user_domain_id",
    "os_user_domain_name",
    "os_user_id",
    "os_username",
    "st_auth",
    "st_auth_version",
    "st_key",
    "st_user",
    "swift_storage_url",
];
const CREDENTIALS_HINT: &str = "Set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME (Keystone), or \
                                OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET, or ST_AUTH, ST_USER \
                                and ST_KEY (tempauth): in the environment of the process, or in lower case in the file \
                                named by walarchive.credentials_file.";

/// Text that no message may show.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user or a project, by id or by name within a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Id(String),
    Name { name: String, domain: Domain },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Domain {
    Id(String),
    Name(String),
}

/// Our proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: Named,
        password: Secret,
        project: Named,
    },
    ApplicationId {
        id: String,
        secret: Secret,
    },
    ApplicationName {
        name: String,
        user: Named,
        secret: Secret,
    },
    /// Swift's own, version 1.
    TempAuth {
        user: String,
        key: Secret,
    },
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) credentials: Credentials,
    pub(super) auth_url: Url,
    /// Instead of the one that the authentication gives.
    pub(super) storage_url: Option<Url>,
    pub(super) region: Option<String>,
    /// "public", "internal" or "admin".
    pub(super) interface: String,
    pub(super) allow_http: bool,
    pub(super) ca_cert_file: Option<PathBuf>,
    /// The source of the secret, for messages.
    pub(super) origin: String,
}

/// Keys whose values prove who we are.
const SECRETS: [&str; 3] = ["os_password", "os_application_credential_secret", "st_key"];

impl Settings {
    pub(super) fn gather(config: &StorageConfig, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let values = Values::gather(config, environment)?;
        let allow_http = match values.get("allow_http") {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                return Err(Error::config(
                    "storage option \"allow_http\" is neither true nor false",
                    "Write allow_http=true or allow_http=false.",
                ));
            }
        };
        let keystone = values.has("os_auth_url");
        if !keystone && !values.has("st_auth") {
            return Err(Error::NoCredentials {
                object: config.url.clone(),
                reason: "Neither OS_AUTH_URL nor ST_AUTH is set, nor one of them in lower case in \
                         walarchive.credentials_file or walarchive.storage_options."
                    .to_owned(),
            });
        }
        let credentials = if keystone {
            values.keystone()?
        } else {
            values.tempauth()?
        };
        let auth_key = if keystone { "os_auth_url" } else { "st_auth" };
        let storage_key = values.first(&["swift_storage_url", "os_storage_url"]);
        Ok(Settings {
            credentials,
            auth_url: values.url(auth_key, allow_http)?,
            storage_url: storage_key.map(|key| values.url(key, allow_http)).transpose()?,
            region: values.get("os_region_name").map(str::to_owned),
            interface: values
                .first(&["os_interface", "os_endpoint_type"])
                .and_then(|key| values.get(key))
                .map_or("public", |interface| interface.trim_end_matches("URL"))
                .to_owned(),
            allow_http,
            ca_cert_file: values
                .first(&["ca_cert_file", "os_cacert"])
                .and_then(|key| values.get(key))
                .map(PathBuf::from),
            origin: match (&config.credentials_file, values.1) {
                (Some(path), true) => credentials::origin(path),
                _ => "OS_PASSWORD, OS_APPLICATION_CREDENTIAL_SECRET or ST_KEY in the environment of the process"
                    .to_owned(),
            },
        })
    }
}

/// Why a URL must not be talked to, if so.
pub(super) fn refuse_plain(url: &Url, allow_http: bool) -> Option<String> {
    match url.scheme() {
        "https" => None,
        "http" if allow_http => None,
        "http" => Some(format!(
            "\"{url}\" is plain http, so others can read the credentials on their way: it is used only if \
             allow_http=true is among the storage options"
        )),
        _ => Some(format!("\"{url}\" is not an http or https URL")),
    }
}

/// The values, and whether the credentials file has a secret.
struct Values(BTreeMap<String, String>, bool);

impl Values {
    /// An explicit option stands above the file, and the file above the environment.
    fn gather(config: &StorageConfig, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut values = BTreeMap::new();
        for key in KEYS
            .iter()
            .filter(|key| key.starts_with("os_") || key.starts_with("st_"))
        {
            if let Some(value) = environment(&key.to_ascii_uppercase()) {
                values.insert((*key).to_owned(), value);
            }
        }
        let mut in_file = false;
        if let Some(path) = &config.credentials_file {
            for (key, value) in credentials::read(path)? {
                in_file |= SECRETS.contains(&&*key);
                values.insert(known(key)?, value);
            }
        }
        for (key, value) in config.options.iter() {
            values.insert(known(key.to_owned())?, value.to_owned());
        }
        values.retain(|_, value| !value.is_empty());
        Ok(Values(values, in_file))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The first key of several that has a value.
    fn first<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        keys.iter().find(|key| self.has(key)).copied()
    }

    fn needed(&self, key: &str, purpose: &str) -> Result<String> {
        self.get(key).map(str::to_owned).ok_or_else(|| {
            let name = key.to_ascii_uppercase();
            Error::config(format!("{name} is not set, but {purpose} needs it"), CREDENTIALS_HINT)
        })
    }

    fn url(&self, key: &str, allow_http: bool) -> Result<Url> {
        let text = self.get(key).unwrap_or_default();
        // A text that is not a URL is not repeated: it may be a credential that was put into the wrong place.
        let url = Url::parse(text).map_err(|error| {
            Error::config(
                format!("{} is not a URL: {error}", key.to_ascii_uppercase()),
                "Write \"https://host:port/path\".",
            )
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            let message = format!("{} holds a user name or a password", key.to_ascii_uppercase());
            return Err(Error::config(message, CREDENTIALS_HINT));
        }
        match refuse_plain(&url, allow_http) {
            None => Ok(url),
            Some(reason) => Err(Error::config(
                reason,
                "Use https, or add \"allow_http=true\" to walarchive.storage_options if the network is to be trusted.",
            )),
        }
    }

    fn tempauth(&self) -> Result<Credentials> {
        Ok(Credentials::TempAuth {
            user: self.needed("st_user", "tempauth")?,
            key: Secret(self.needed("st_key", "tempauth")?),
        })
    }

    fn keystone(&self) -> Result<Credentials> {
        if let Some(version) = self.get("os_identity_api_version")
            && !version.starts_with('3')
        {
            let message = format!("version {version} of Keystone's API is not supported");
            return Err(Error::config(
                message,
                "Set OS_IDENTITY_API_VERSION to 3, or leave it out.",
            ));
        }
        if let Some(id) = self.get("os_application_credential_id") {
            return Ok(Credentials::ApplicationId {
                id: id.to_owned(),
                secret: self.application_secret()?,
            });
        }
        if let Some(name) = self.get("os_application_credential_name") {
            return Ok(Credentials::ApplicationName {
                name: name.to_owned(),
                user: self.user("an application credential that is given by its name")?,
                secret: self.application_secret()?,
            });
        }
        let project = if let Some(id) = self.first(&["os_project_id", "os_tenant_id"]) {
            Named::Id(self.needed(id, "Keystone")?)
        } else {
            let key = self
                .first(&["os_project_name", "os_tenant_name"])
                .unwrap_or("os_project_name");
            Named::Name {
                name: self.needed(key, "Keystone")?,
                domain: self.domain("os_project_domain_id", "os_project_domain_name"),
            }
        };
        Ok(Credentials::Password {
            user: self.user("Keystone")?,
            password: Secret(self.needed("os_password", "Keystone")?),
            project,
        })
    }

    fn application_secret(&self) -> Result<Secret> {
        self.needed("os_application_credential_secret", "an application credential")
            .map(Secret)
    }

    fn user(&self, purpose: &str) -> Result<Named> {
        if let Some(id) = self.get("os_user_id") {
            return Ok(Named::Id(id.to_owned()));
        }
        Ok(Named::Name {
            name: self.needed("os_username", purpose)?,
            domain: self.domain("os_user_domain_id", "os_user_domain_name"),
        })
    }

    /// Keystone's first domain has the id "default" everywhere, and most installations have no other.
    fn domain(&self, id: &str, name: &str) -> Domain {
        match (self.get(id), self.get(name)) {
            (Some(id), _) => Domain::Id(id.to_owned()),
            (None, Some(name)) => Domain::Name(name.to_owned()),
            (None, None) => Domain::Id("default".to_owned()),
        }
    }
}

fn known(key: String) -> Result<String> {
    if KEYS.contains(&key.as_str()) {
        return Ok(key);
    }
    Err(Error::config(
        format!("storage option \"{key}\" is not known for Swift"),
        "Known are for example os_auth_url, os_region_name, os_project_name, swift_storage_url, allow_http, ca_cert_file; \
         and in the credentials file os_username, os_password, st_user, st_key.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(options: &str, environment: &[(&str, &str)]) -> Result<Settings> {
        let config = StorageConfig {
            options: options.parse()?,
            ..StorageConfig::new("swift://container/prefix")
        };
        Settings::gather(&config, &|name| {
            let found = environment.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        })
    }

    const KEYSTONE: [(&str, &str); 4] = [
        ("OS_AUTH_URL", "https://keystone:5000/v3"),
        ("OS_USERNAME", "me"),
        ("OS_PASSWORD", "hunter2"),
        ("OS_TENANT_NAME", "ours"),
    ];

    #[test]
    fn the_environment_of_openstacks_tools_suffices() {
        let settings = gather("", &KEYSTONE).expect("settings");
        assert!(matches!(
            &settings.credentials,
            Credentials::Password { project: Named::Name { name, domain: Domain::Id(id) }, .. } if name == "ours" && id == "default"
        ));
        assert_eq!(settings.interface, "public");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_neither_true_nor_false_is_refused_with_a_hint() {
        let error = gather("allow_http=yes", &KEYSTONE).expect_err("refused");
        assert!(error.to_string().contains("allow_http"), "{error}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("allow_http=true")),
            "{error:?}"
        );
    }

    #[test]
    fn options_stand_above_the_environment() {
        let settings =
            gather("os_auth_url=https://other/v3 os_endpoint_type=internalURL", &KEYSTONE).expect("settings");
        assert_eq!(settings.auth_url.as_str(), "https://other/v3");
        assert_eq!(settings.interface, "internal");
        let id = "os_application_credential_id=abc";
        let secret = [
            ("OS_AUTH_URL", "https://k/v3"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
        ];
        let settings = gather(id, &secret).expect("settings");
        assert!(matches!(settings.credentials, Credentials::ApplicationId { id, .. } if id == "abc"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let said = |options: &str, environment: &[(&str, &str)]| {
            let error = gather(options, environment).expect_err("refused");
            assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error:?}");
            error.to_string()
        };
        assert!(said("", &[]).contains("no credentials"));
        assert!(said("", &KEYSTONE[..2]).contains("OS_PROJECT_NAME is not set"));
        assert!(said("", &[("ST_AUTH", "https://h/auth/v1.0"), ("ST_USER", "u")]).contains("ST_KEY is not set"));
        assert!(
            said(
                "",
                &[("ST_AUTH", "http://h/auth/v1.0"), ("ST_USER", "u"), ("ST_KEY", "k")]
            )
            .contains("allow_http=true")
        );
        assert!(said("aws_region=eu", &KEYSTONE).contains("not known for Swift"));
        assert!(said("st_key=hunter2", &KEYSTONE).contains("is a credential"));
        assert!(said("os_password=hunter2", &KEYSTONE).contains("is a credential"));
        assert!(said("os_identity_api_version=2.0", &KEYSTONE).contains("version 2.0"));
    }
}
