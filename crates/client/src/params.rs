//! The parameters of a connection: libpq's environment variables, a service, the defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use walarchive_core::{Error, Result};

use crate::conninfo;
use crate::environment::{Environment, home};
use crate::passfile::{self, Wanted};
use crate::service;

/// How long one attempt to connect may take, unless `connect_timeout` says something else.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The keywords that count here, and libpq's variables for them.
const VARIABLES: [(&str, &str); 24] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("sslpassword", ""),
];

/// Other keys of a service, which make no difference here.
const WITHOUT_EFFECT: [&str; 16] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "replication",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
];

/// Parameters that would make a connection safer than it is here. Values that ask for nothing are taken, all others are
/// refused.
const NOT_KEPT: [(&str, &[&str]); 7] = [
    ("require_auth", &[]),
    ("channel_binding", &["disable", "prefer"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslnegotiation", &["postgres"]),
    ("sslcrl", &[]),
    ("sslcrldir", &[]),
    ("sslpassword", &[]),
];

/// Variables that only say where files are. They count beside a connection string, too.
const FILES: [&str; 4] = ["HOME", "PGPASSFILE", "PGSERVICEFILE", "PGSYSCONFDIR"];

/// The parameters of a connection, by libpq's keywords.
#[derive(Clone, Default)]
pub struct Params {
    values: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().filter(|(keyword, _)| *keyword != "password");
        f.debug_map().entries(shown).finish_non_exhaustive()
    }
}

impl Params {
    /// Those of this process's environment. A service comes before the other variables, as with libpq.
    pub fn find() -> Result<Self> {
        Self::find_in(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    pub(crate) fn find_in(environment: Environment<'_>) -> Result<Self> {
        let mut values = BTreeMap::new();
        if environment("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            values.insert("sslmode".to_owned(), "require".to_owned());
        }
        let set = VARIABLES
            .iter()
            .filter_map(|(keyword, variable)| Some((*keyword, environment(variable)?)));
        values.extend(set.map(|(keyword, value)| (keyword.to_owned(), value)));
        if let Some(name) = environment("PGSERVICE") {
            take_service(&mut values, &name, environment)?;
        }
        Self::of(values, environment)
    }

    /// Those of a connection string of libpq's, keyword = value. Of this process's environment only the places of files count:
    /// who starts a server may have variables for other programs.
    pub fn of_conninfo(text: &str) -> Result<Self> {
        let files = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of_conninfo_in(text, &|name| FILES.contains(&name).then(|| files(name)).flatten())
    }

    /// Those that a connection string has itself: no file is looked at.
    pub(crate) fn in_conninfo(text: &str) -> Result<Self> {
        let mut pairs = conninfo::pairs(text)?;
        pairs.retain(|(keyword, _)| keyword != "service");
        let mut values = BTreeMap::new();
        take(&mut values, "the connection string", pairs)?;
        values.retain(|_, value| !value.is_empty());
        check(&values)?;
        Ok(Params { values, home: None })
    }

    fn of_conninfo_in(text: &str, environment: Environment<'_>) -> Result<Self> {
        let mut pairs = conninfo::pairs(text)?;
        let mut values = BTreeMap::new();
        if let Some(file) = environment("PGPASSFILE") {
            values.insert("passfile".to_owned(), file);
        }
        // What the string itself says counts more than the service that it names.
        if let Some((_, name)) = pairs.iter().rfind(|(keyword, _)| keyword == "service") {
            take_service(&mut values, name, environment)?;
        }
        pairs.retain(|(keyword, _)| keyword != "service");
        take(&mut values, "the connection string", pairs)?;
        Self::of(values, environment)
    }

    fn of(mut values: BTreeMap<String, String>, environment: Environment<'_>) -> Result<Self> {
        values.retain(|_, value| !value.is_empty());
        check(&values)?;
        Ok(Params {
            values,
            home: home(environment),
        })
    }

    /// The value of a keyword.
    pub(crate) fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str)
    }

    /// Does anything name the server?
    pub fn names_server(&self) -> bool {
        ["host", "hostaddr", "port"]
            .iter()
            .any(|keyword| self.values.contains_key(*keyword))
    }

    /// The usual places of the server, for users who have not named one.
    pub fn set_server(&mut self, host: &str, port: u16) {
        self.values.insert("host".to_owned(), host.to_owned());
        self.values.insert("port".to_owned(), port.to_string());
    }

    /// The name by which the server knows this program.
    pub fn set_application_name(&mut self, name: &str) {
        self.values.insert("application_name".to_owned(), name.to_owned());
    }

    /// Connect to another database.
    pub(crate) fn with_database(&self, name: &str) -> Self {
        let mut params = self.clone();
        params.values.insert("dbname".to_owned(), name.to_owned());
        params
    }

    /// Have the session begin with these settings, which nothing that a database or a role has set can change.
    pub(crate) fn with_settings(&self, settings: &[(&str, &str)]) -> Self {
        let mut params = self.clone();
        let options = params.values.entry("options".to_owned()).or_default();
        for (name, value) in settings {
            let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
            options.push_str(&format!(" -c {name}={value}"));
        }
        params
    }

    /// The role: by default that of the operating system's user.
    pub(crate) fn user(&self) -> Result<String> {
        if let Some(user) = self.get("user") {
            return Ok(user.to_owned());
        }
        let user = User::from_uid(geteuid()).ok().flatten();
        user.map(|user| user.name).ok_or_else(|| {
            Error::config(
                "the role to connect as is not known: the user of this process has no name",
                "Set PGUSER.",
            )
        })
    }

    /// The password, for a host as libpq calls it. The value itself comes before the file.
    pub(crate) fn password(&self, wanted: &Wanted<'_>) -> Option<String> {
        if let Some(password) = self.get("password") {
            return Some(password.to_owned());
        }
        let file = self.get("passfile").map(PathBuf::from);
        passfile::find(&file.or_else(|| self.in_home(".pgpass"))?, wanted)
    }

    /// A file in the user's home.
    pub(crate) fn in_home(&self, name: &str) -> Option<PathBuf> {
        Some(self.home.as_deref()?.join(name))
    }

    /// A file: as it was named, or that of this name in `~/.postgresql`, if it is there.
    pub(crate) fn tls_file(&self, keyword: &str, name: &str) -> Option<PathBuf> {
        let named = self.get(keyword).map(PathBuf::from);
        named.or_else(|| {
            self.in_home(&Path::new(".postgresql").join(name).to_string_lossy())
                .filter(|file| file.exists())
        })
    }

    /// For one attempt to connect.
    pub(crate) fn connect_timeout(&self) -> Result<Duration> {
        let Some(text) = self.get("connect_timeout") else {
            return Ok(CONNECT_TIMEOUT);
        };
        match text.trim().parse::<i64>() {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.unsigned_abs().max(2))),
            // libpq would wait without an end.
            Ok(_) => Ok(CONNECT_TIMEOUT),
            Err(_) => Err(Error::config(
                "connect_timeout (PGCONNECT_TIMEOUT) is not a number of seconds",
                "Set it to a whole number.",
            )),
        }
    }
}

/// Add the parameters of a service.
fn take_service(values: &mut BTreeMap<String, String>, name: &str, environment: Environment<'_>) -> Result<()> {
    let found = service::find(name, environment)?;
    take(values, &format!("service \"{name}\""), found)
}

/// Add pairs of that source, which must be known.
fn take(values: &mut BTreeMap<String, String>, source: &str, pairs: Vec<(String, String)>) -> Result<()> {
    for (keyword, value) in pairs {
        let is_known = VARIABLES.iter().any(|(known, _)| *known == keyword);
        if !is_known && !WITHOUT_EFFECT.contains(&keyword.as_str()) {
            return Err(Error::config(
                format!("{source} has the unknown keyword \"{}\"", keyword.escape_debug()),
                "Use the keywords of libpq's connection strings.",
            ));
        }
        values.insert(keyword, value);
    }
    Ok(())
}

/// An error if something is promised that is not kept here.
fn check(values: &BTreeMap<String, String>) -> Result<()> {
    for (keyword, harmless) in NOT_KEPT {
        if let Some(value) = values.get(keyword)
            && !value.is_empty()
            && !harmless.contains(&value.as_str())
        {
            return Err(Error::config(
                format!("the connection parameter {keyword} is set, which walarchive cannot keep to"),
                "Unset it for walarchive if the connection is safe enough without it.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Params> {
        Params::find_in(&|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_service_comes_before_the_variables() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("services");
        std::fs::write(&file, "[s]\nport=7\nkeepalives=1\n[bad]\nprot=7\n").expect("written");
        let file = file.to_string_lossy();
        let set = |service| {
            found(&[
                ("PGSERVICEFILE", &file),
                ("PGSERVICE", service),
                ("PGPORT", "5"),
                ("PGUSER", "u"),
                ("PGPASSWORD", "hunter2"),
            ])
        };
        let params = set("s").expect("found");
        assert_eq!((params.get("port"), params.get("user")), (Some("7"), Some("u")));
        assert!(!format!("{params:?}").contains("hunter2"));
        assert!(set("bad").is_err());
    }

    #[test]
    fn a_promise_that_is_not_kept_is_refused() {
        for (variable, value) in [
            ("PGREQUIREAUTH", "scram-sha-256"),
            ("PGCHANNELBINDING", "require"),
            ("PGGSSENCMODE", "require"),
            ("PGSSLNEGOTIATION", "direct"),
            ("PGSSLCRL", "/crl"),
        ] {
            assert!(found(&[(variable, value)]).is_err(), "{variable}");
        }
        assert!(found(&[("PGCHANNELBINDING", "prefer"), ("PGGSSENCMODE", "disable")]).is_ok());
    }

    #[test]
    fn a_connection_string_counts_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("services");
        std::fs::write(&file, "[s]\nport=7\nuser=s\n").expect("written");
        let file = file.to_string_lossy().into_owned();
        let of = |text| {
            Params::of_conninfo_in(text, &|name| match name {
                "PGSERVICEFILE" => Some(file.clone()),
                "PGPASSFILE" => Some("/pass".to_owned()),
                "PGHOST" | "PGUSER" | "PGSERVICE" => panic!("{name} is read"),
                _ => None,
            })
        };
        let params = of("user=u service=s").expect("found");
        assert_eq!((params.get("port"), params.get("user")), (Some("7"), Some("u")));
        assert_eq!(params.get("passfile"), Some("/pass"));
        let mut params = of("application_name=other").expect("found");
        params.set_application_name("walarchive");
        assert_eq!(params.get("application_name"), Some("walarchive"));
        for wrong in ["prot=7", "channel_binding=require", "x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_come_after_those_of_the_user() {
        let settings = [("a", "x y"), ("b", ""), ("c", "\\")];
        let of = |variables: &[(&str, &str)]| {
            let params = found(variables).expect("found").with_settings(&settings);
            params.get("options").expect("options").to_owned()
        };
        assert_eq!(of(&[]), r" -c a=x\ y -c b= -c c=\\");
        assert_eq!(of(&[("PGOPTIONS", "-c a=1")]), r"-c a=1 -c a=x\ y -c b= -c c=\\");
    }

    #[test]
    fn an_attempt_has_a_deadline() {
        let timeout = |value| found(&[("PGCONNECT_TIMEOUT", value)]).expect("found").connect_timeout();
        assert_eq!(timeout("5").expect("a number"), Duration::from_secs(5));
        assert_eq!(timeout("1").expect("a number"), Duration::from_secs(2));
        assert_eq!(timeout("0").expect("a number"), CONNECT_TIMEOUT);
        assert!(timeout("x").is_err());
    }
}
