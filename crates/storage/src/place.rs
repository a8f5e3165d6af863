//! Do two configurations name the same place?

use std::collections::BTreeMap;
use std::fmt;

use crate::config::StorageConfig;

/// Options that say where a store is, and not how to reach it: after [`bare`], and under one name.
const WHERE: [(&str, &str); 16] = [
    ("endpoint", "endpoint"),
    ("endpoint_url", "endpoint"),
    ("endpoint_url_s3", "endpoint"),
    ("base_url", "base_url"),
    ("account_name", "account_name"),
    ("environment_name", "environment_name"),
    ("use_emulator", "use_emulator"),
    ("os_auth_url", "os_auth_url"),
    ("os_storage_url", "os_storage_url"),
    ("os_region_name", "os_region_name"),
    ("os_project_id", "os_project_id"),
    ("os_tenant_id", "os_project_id"),
    ("os_project_name", "os_project_name"),
    ("os_tenant_name", "os_project_name"),
    ("st_auth", "st_auth"),
    ("st_user", "st_user"),
];

/// A repository's URL, and the endpoint or the account that its options name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    url: String,
    options: BTreeMap<&'static str, String>,
}

impl StorageConfig {
    /// The place, as far as this tells it: an endpoint may be in the environment, or in a file.
    pub fn place(&self) -> Place {
        let trimmed = |value: &str| value.trim().trim_end_matches('/').to_owned();
        let options = self.options.iter().filter_map(|(key, value)| {
            let known = WHERE.iter().find(|(name, _)| *name == bare(key))?;
            Some((known.1, trimmed(value)))
        });
        Place {
            url: trimmed(&self.url),
            options: options.collect(),
        }
    }
}

/// Most options may be written with the cloud's name before them, or without.
fn bare(key: &str) -> &str {
    let prefixes = ["aws_", "azure_storage_", "azure_", "google_"];
    prefixes
        .iter()
        .find_map(|prefix| key.strip_prefix(prefix))
        .unwrap_or(key)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.url)?;
        for (key, value) in &self.options {
            write!(f, ", {key} \"{value}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str, options: &str) -> Place {
        StorageConfig {
            options: options.parse().expect("options"),
            ..StorageConfig::new(url)
        }
        .place()
    }

    #[test]
    fn a_bucket_at_another_endpoint_is_another_place() {
        let here = place("s3://b/p/", "aws_endpoint=http://a:9000/,aws_region=x");
        assert_eq!(here, place("s3://b/p", "endpoint_url=http://a:9000"));
        assert_eq!(here.to_string(), "\"s3://b/p\", endpoint \"http://a:9000\"");
        for (url, options) in [
            ("s3://b/p", "aws_endpoint=http://b:9000"),
            ("s3://b/p", ""),
            ("s3://b/q", "aws_endpoint=http://a:9000"),
        ] {
            assert_ne!(here, place(url, options), "{url} {options}");
        }
        assert_ne!(
            place("az://c/p", "azure_storage_account_name=a"),
            place("az://c/p", "account_name=b")
        );
    }
}
