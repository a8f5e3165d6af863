//! The shared files of the AWS tools: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backends::credentials;
use crate::backends::credentials::Line;
use crate::error::{Error, Result};
use crate::renewal::Watch;

/// The places of the two files, and the profile of theirs that is meant.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    /// `AWS_PROFILE`, if it is set.
    pub name: Option<String>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, if it is set.
    pub credentials_file: Option<String>,
    /// `AWS_CONFIG_FILE`, if it is set.
    pub config_file: Option<String>,
}

/// The useful part of a profile, under object_store's key names.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// The key, its secret and perhaps a session token; or a role and the file with a web identity's token.
    pub credentials: Vec<(&'static str, String)>,
    pub region: Option<String>,
    /// The file of the credentials, for messages; empty if there are none.
    pub origin: String,
}

/// Ways to credentials that run programs or ask other services, and the word for each.
const UNSUPPORTED: [(&str, &str); 6] = [
    ("credential_process", "a program (credential_process)"),
    ("sso_session", "single sign-on (sso_session)"),
    ("sso_start_url", "single sign-on (sso_start_url)"),
    ("login_session", "a login session (login_session)"),
    ("source_profile", "another role (source_profile)"),
    ("credential_source", "another role (credential_source)"),
];
const STATIC: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

impl Profiles {
    /// The profile, empty if there is none and none was named.
    /// Its files are watched.
    pub fn read(&self, watch: &mut Watch) -> Result<Profile> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        self.read_below(home.as_deref(), watch)
    }

    fn read_below(&self, home: Option<&Path>, watch: &mut Watch) -> Result<Profile> {
        let name = self.name.as_deref().unwrap_or("default");
        let mut files = Vec::new();
        let mut keys = BTreeMap::new();
        let (mut found, mut origin) = (false, None);
        // The second file does not override the first one.
        for (named, usual, prefix) in [
            (&self.credentials_file, ".aws/credentials", ""),
            (&self.config_file, ".aws/config", "profile "),
        ] {
            let Some(path) = named
                .as_ref()
                .map(PathBuf::from)
                .or_else(|| home.map(|home| home.join(usual)))
            else {
                continue;
            };
            watch.add(&path);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                // Nobody said that it has to be there; a server's home may not even be its own.
                Err(_) if named.is_none() => continue,
                Err(error) => return Err(credentials::unreadable("open", &path, &error)),
            };
            let is_ours = |line: &Line| {
                let section = line.section.as_deref().unwrap_or_default();
                section == name && (prefix.is_empty() || name == "default")
                    || (!prefix.is_empty() && section.strip_prefix(prefix).map(str::trim) == Some(name))
            };
            for line in credentials::lines(&text, &path)?.into_iter().filter(is_ours) {
                found = true;
                if (STATIC.contains(&&*line.key) || line.key == "role_arn") && origin.is_none() {
                    origin = Some(path.clone());
                }
                keys.entry(line.key).or_insert(line.value);
            }
            files.push(path);
        }
        if !found && self.name.is_some() {
            let files: Vec<_> = files.iter().map(|file| format!("\"{}\"", file.display())).collect();
            return Err(Error::config(
                format!("the AWS profile \"{name}\" was not found"),
                if files.is_empty() {
                    "There is neither ~/.aws/credentials nor ~/.aws/config for this user: set AWS_SHARED_CREDENTIALS_FILE."
                        .to_owned()
                } else {
                    format!(
                        "Looked for in {}. Correct aws_profile or AWS_PROFILE.",
                        files.join(" and ")
                    )
                },
            ));
        }
        let origin = origin.map(|file| format!("the profile \"{name}\" of the file \"{}\"", file.display()));
        Ok(Profile {
            origin: origin.unwrap_or_default(),
            ..of_keys(name, keys)?
        })
    }
}

fn of_keys(name: &str, mut keys: BTreeMap<String, String>) -> Result<Profile> {
    keys.retain(|_, value| !value.is_empty());
    let mut profile = Profile {
        region: keys.remove("region"),
        ..Profile::default()
    };
    let mut take = |wanted: &[&'static str]| -> Vec<(&'static str, String)> {
        wanted
            .iter()
            .filter_map(|key| Some((*key, keys.remove(*key)?)))
            .collect()
    };
    let fixed = take(&STATIC);
    let web = take(&["role_arn", "web_identity_token_file", "role_session_name"]);
    let has = |pairs: &[(&str, String)], key: &str| pairs.iter().any(|(name, _)| *name == key);
    // Keys beside a source_profile belong to the role's source, in a profile of that name.
    let chained = UNSUPPORTED.iter().find(|(key, _)| keys.contains_key(*key));
    if has(&web, "role_arn") && has(&web, "web_identity_token_file") {
        profile.credentials = web;
    } else if !fixed.is_empty() && !has(&web, "role_arn") {
        profile.credentials = fixed;
    } else if let Some((_, way)) = chained {
        return Err(Error::config(
            format!("the AWS profile \"{name}\" gets its credentials from {way}, which is not supported"),
            "Use a profile with aws_access_key_id and aws_secret_access_key, or give the credentials in \
             walarchive.credentials_file, by web identity, or by the role of the instance or container.",
        ));
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: Option<&str>, credentials: &str, config: &str) -> Result<Profile> {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join(".aws")).expect("created");
        std::fs::write(home.path().join(".aws/credentials"), credentials).expect("written");
        std::fs::write(home.path().join(".aws/config"), config).expect("written");
        let profiles = Profiles {
            name: name.map(str::to_owned),
            ..Profiles::default()
        };
        profiles.read_below(Some(home.path()), &mut Watch::default())
    }

    const CREDENTIALS: &str = "[default]\naws_access_key_id = AK\naws_secret_access_key = SK\n\
                               [backup]\naws_access_key_id=BK\naws_secret_access_key=BS\naws_session_token=BT\n";
    const CONFIG: &str = "[default]\nregion = eu-central-1\n[profile backup]\nregion = eu-west-1\naws_access_key_id = NO\n\
                          [profile process]\ncredential_process = /bin/false hunter2\n\
                          [profile web]\nrole_arn = arn:x\nweb_identity_token_file = /t\n\
                          [profile chained]\nrole_arn = arn:x\nsource_profile = default\n";

    fn pairs(profile: &Profile) -> Vec<(&str, &str)> {
        profile
            .credentials
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect()
    }

    #[test]
    fn each_profile_gives_its_own() {
        let default = read(None, CREDENTIALS, CONFIG).expect("read");
        assert_eq!(
            pairs(&default),
            [("aws_access_key_id", "AK"), ("aws_secret_access_key", "SK")]
        );
        assert_eq!(default.region.as_deref(), Some("eu-central-1"));
        let backup = read(Some("backup"), CREDENTIALS, CONFIG).expect("read");
        assert_eq!(
            pairs(&backup),
            [
                ("aws_access_key_id", "BK"),
                ("aws_secret_access_key", "BS"),
                ("aws_session_token", "BT")
            ]
        );
        assert_eq!(backup.region.as_deref(), Some("eu-west-1"));
        let web = read(Some("web"), CREDENTIALS, CONFIG).expect("read");
        assert_eq!(pairs(&web), [("role_arn", "arn:x"), ("web_identity_token_file", "/t")]);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (name, says) in [
            ("process", "gets its credentials from a program (credential_process)"),
            ("chained", "gets its credentials from another role (source_profile)"),
            ("missing", "the AWS profile \"missing\" was not found"),
        ] {
            let error = read(Some(name), CREDENTIALS, CONFIG).err().expect(name);
            assert!(error.to_string().contains(says), "{name}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn files_that_nobody_named_may_be_missing() {
        assert!(
            Profiles::default()
                .read_below(Some(Path::new("/nonexistent")), &mut Watch::default())
                .expect("read")
                == Profile::default()
        );
        let named = Profiles {
            credentials_file: Some("/nonexistent/credentials".to_owned()),
            ..Profiles::default()
        };
        let error = named.read_below(None, &mut Watch::default()).err().expect("refused");
        assert!(error.to_string().contains("\"/nonexistent/credentials\""), "{error}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()));
    }
}
