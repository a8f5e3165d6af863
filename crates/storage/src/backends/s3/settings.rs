//! The environment, the shared files, the credentials file and the options, put into one.

use std::collections::HashMap;
use std::str::FromStr;

use object_store::aws::AmazonS3ConfigKey as Key;

use super::profile::Profiles;
use crate::backends::cloud::Client;
use crate::backends::credentials::Line;
use crate::backends::{cloud, credentials};
use crate::config::{StorageConfig, is_true};
use crate::error::{Error, Result};
use crate::renewal::Watch;

const KNOWN: &str = "aws_endpoint, aws_region, aws_profile, aws_storage_class, aws_server_side_encryption, \
                     aws_checksum_algorithm, aws_virtual_hosted_style_request";
const STATIC: [Key; 3] = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
const WEB_IDENTITY: [Key; 2] = [Key::WebIdentityTokenFile, Key::RoleArn];
const CONTAINER: [Key; 2] = [Key::ContainerCredentialsRelativeUri, Key::ContainerCredentialsFullUri];

pub(super) struct Settings {
    pub keys: HashMap<Key, String>,
    pub client: Client,
    pub storage_class: Option<String>,
    pub encryption: Option<String>,
    pub customer_key: Option<String>,
    /// The files that the credentials may be from.
    pub watch: Watch,
    /// The source of the credentials, for messages.
    pub origin: String,
    /// They are from a file.
    pub in_file: bool,
    profiles: Profiles,
    /// The profile was named by an option, not by the environment.
    profile_is_option: bool,
    /// The credentials file had a key.
    from_file: bool,
}

impl Settings {
    /// Everything but the profile, later sources over earlier ones.
    pub fn collect(config: &StorageConfig) -> Result<Self> {
        let mut settings = Settings {
            keys: HashMap::new(),
            client: Client::new(config),
            storage_class: None,
            encryption: None,
            customer_key: None,
            watch: Watch::default(),
            origin: String::new(),
            in_file: false,
            profiles: Profiles::default(),
            profile_is_option: false,
            from_file: false,
        };
        for (key, value) in cloud::environment("AWS_") {
            // Of those that begin so, many are other programs'.
            settings.add(&key, &value);
        }
        let mut options = Vec::new();
        for (key, value) in config.options.iter() {
            match key {
                "aws_profile" | "profile" => {
                    settings.profiles.name = Some(value.to_owned());
                    settings.profile_is_option = true;
                }
                // An option is meant to win over the environment's AWS_REGION.
                "aws_default_region" | "default_region" => options.push(("aws_region", value)),
                _ => options.push((key, value)),
            }
        }
        if let Some(path) = &config.credentials_file {
            settings.add_credentials_file(path)?;
        }
        for (key, value) in options {
            if !settings.add(key, value) {
                return Err(cloud::unknown(key, "S3", KNOWN));
            }
        }
        Ok(settings)
    }

    fn add_credentials_file(&mut self, path: &std::path::Path) -> Result<()> {
        self.watch.add(path);
        let lines = credentials::lines(&credentials::text(path)?, path)?;
        let named = self.profiles.name.take_if(|_| self.profile_is_option);
        let section = named.as_deref().unwrap_or("default");
        let has_sections = lines.iter().any(|line| line.section.is_some());
        let wanted = |line: &&Line| line.section.as_deref().is_none_or(|name| name == section);
        let lines: Vec<_> = lines.iter().filter(wanted).collect();
        if named.is_some() && has_sections && lines.is_empty() {
            return Err(Error::config(
                format!("the profile \"{section}\" was not found in \"{}\"", path.display()),
                "Correct aws_profile in walarchive.storage_options, or add a section of that name to the file.",
            ));
        }
        if named.is_some() && !has_sections {
            // Then the profile is one of the shared files.
            self.profiles.name = named;
        }
        let is = |line: &&&Line, key: Key| Key::from_str(&line.key).is_ok_and(|known| known == key);
        if lines.iter().any(|line| is(&line, Key::AccessKeyId)) {
            // A session token of other credentials does not fit to these.
            self.keys.retain(|key, _| !STATIC.contains(key));
            self.from_file = true;
            self.in_file = true;
            self.origin = credentials::origin(path);
        }
        for line in lines {
            if !self.add(&line.key, &line.value) && line.section.is_none() {
                return Err(cloud::unknown(&line.key, "S3", KNOWN));
            }
        }
        Ok(())
    }

    /// False if the key is not known.
    fn add(&mut self, key: &str, value: &str) -> bool {
        let value = value.to_owned();
        match key {
            "aws_storage_class" | "storage_class" => self.storage_class = Some(value),
            "aws_ca_cert_file" | "ca_cert_file" | "aws_ca_bundle" | "ca_bundle" => self.client.trust(&value),
            "aws_server_side_encryption" | "server_side_encryption" => self.encryption = Some(value),
            "aws_sse_customer_key_base64" | "sse_customer_key_base64" => self.customer_key = Some(value),
            "aws_profile" | "profile" => self.profiles.name = Some(value),
            "aws_shared_credentials_file" => self.profiles.credentials_file = Some(value),
            "aws_config_file" => self.profiles.config_file = Some(value),
            _ => match Key::from_str(key) {
                // The bucket is the URL's.
                Err(_) | Ok(Key::Bucket) => return false,
                Ok(Key::Client(key)) => self.client.set(key, &value),
                // One thing has one name, or the environment's would win over an option.
                Ok(Key::S3Endpoint) => self.set(Key::Endpoint, value),
                Ok(Key::DefaultRegion) => {
                    self.keys.entry(Key::Region).or_insert(value);
                }
                Ok(key) => self.set(key, value),
            },
        }
        true
    }

    pub fn get(&self, key: Key) -> Option<&str> {
        self.keys.get(&key).map(String::as_str)
    }

    pub fn set(&mut self, key: Key, value: String) {
        self.keys.insert(key, value);
    }

    pub fn take(&mut self, key: Key) -> Option<String> {
        self.keys.remove(&key)
    }

    /// Leave in the keys what the first place with credentials has, so that object_store takes no other.
    pub fn choose_credentials(&mut self) -> Result<()> {
        let has = |keys: &[Key]| keys.iter().any(|key| self.keys.contains_key(key));
        let named = self.profiles.name.is_some();
        let in_environment = has(&[Key::AccessKeyId, Key::SecretAccessKey]);
        if self.from_file || (in_environment && !self.profile_is_option) {
            if !self.from_file {
                self.origin =
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the process".to_owned();
            }
            self.take_region_of_profile();
            return self.check_static();
        }
        // A role in the environment is for those who named no profile.
        let web_identity = WEB_IDENTITY.iter().all(|key| self.keys.contains_key(key));
        if (web_identity && !named) || self.get(Key::SkipSignature).is_some_and(is_true) {
            self.watch_web_identity();
            self.take_region_of_profile();
            return Ok(());
        }
        let profile = self.profiles.read(&mut self.watch)?;
        if named && profile.credentials.is_empty() && !has(&CONTAINER) {
            return Err(Error::config(
                format!(
                    "the AWS profile \"{}\" holds no credentials",
                    self.profiles.name.as_deref().unwrap_or_default()
                ),
                "Put aws_access_key_id and aws_secret_access_key into its section of the shared credentials file.",
            ));
        }
        if !profile.credentials.is_empty() {
            let other = |key: &Key| STATIC.contains(key) || WEB_IDENTITY.contains(key) || *key == Key::RoleSessionName;
            self.keys.retain(|key, _| !other(key));
            for (key, value) in profile.credentials {
                self.add(key, &value);
            }
            self.watch_web_identity();
            self.in_file = true;
            self.origin = profile.origin;
        } else {
            self.origin = match has(&CONTAINER) {
                true => "the role of the container".to_owned(),
                false => "the role of the instance".to_owned(),
            };
        }
        if let Some(region) = profile.region {
            self.keys.entry(Key::Region).or_insert(region);
        }
        self.check_static()
    }

    /// The token is read for each session, so a new one counts from then on.
    fn watch_web_identity(&mut self) {
        if let Some(file) = self.get(Key::WebIdentityTokenFile).map(str::to_owned) {
            self.origin = format!("the web identity of the token file \"{file}\"");
            self.watch.add(file);
        }
    }

    /// A profile whose credentials are not wanted may be unusable, and nobody asked.
    fn take_region_of_profile(&mut self) {
        if !self.keys.contains_key(&Key::Region)
            && let Ok(profile) = self.profiles.read(&mut self.watch)
            && let Some(region) = profile.region
        {
            self.set(Key::Region, region);
        }
    }

    fn check_static(&self) -> Result<()> {
        let missing = match (self.get(Key::AccessKeyId), self.get(Key::SecretAccessKey)) {
            (Some(_), None) => "aws_secret_access_key",
            (None, Some(_)) => "aws_access_key_id",
            _ => return Ok(()),
        };
        Err(Error::config(
            format!("the credentials for S3 are incomplete: {missing} is missing"),
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together, in one place.",
        ))
    }
}
