//! WAL-G's configuration file: names of variables and their values, as JSON, YAML or TOML. Names are as in the environment, in
//! any case. No message repeats the content of the file: it may be a secret.

use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;
use walarchive_core::{Error, Result};
use yaml_rust2::{Yaml, YamlLoader};

/// The endings of file names that are understood, in the order of the search.
pub(super) const ENDINGS: [&str; 4] = ["json", "toml", "yaml", "yml"];

/// The settings in the text of a file. The ending of its name tells its format.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<(String, OsString)>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "json" => json(path, text),
        "toml" => toml(path, text),
        "yaml" | "yml" => yaml(path, text),
        _ => Err(Error::config(
            format!("the format of configuration file \"{}\" is not known", path.display()),
            "Its name must end in .json, .yaml, .yml or .toml.",
        )),
    }
}

/// The line that is wrong, without its content.
fn wrong(path: &Path, line: usize) -> Error {
    Error::config(
        format!(
            "configuration file \"{}\" cannot be read: line {line} is wrong",
            path.display()
        ),
        "It must have names and values, as in {\"WALG_S3_PREFIX\": \"s3://bucket/prefix\"}.",
    )
}

fn no_names(path: &Path) -> Error {
    Error::config(
        format!("configuration file \"{}\" has no names and values", path.display()),
        "Write it like {\"WALG_S3_PREFIX\": \"s3://bucket/prefix\"}.",
    )
}

/// A value as the environment would have it; none if it is null. Some of WAL-G's are lists or maps.
fn plain(value: Value) -> Option<OsString> {
    Some(match value {
        Value::Null => return None,
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    })
}

fn settings(values: impl IntoIterator<Item = (String, Value)>) -> Vec<(String, OsString)> {
    let set = |(name, value): (String, Value)| Some((name.to_ascii_uppercase(), plain(value)?));
    values.into_iter().filter_map(set).collect()
}

fn json(path: &Path, text: &str) -> Result<Vec<(String, OsString)>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(values)) => Ok(settings(values)),
        Ok(_) => Err(no_names(path)),
        Err(error) => Err(wrong(path, error.line())),
    }
}

fn toml(path: &Path, text: &str) -> Result<Vec<(String, OsString)>> {
    let values: serde_json::Map<String, Value> = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        wrong(path, before.unwrap_or_default().matches('\n').count() + 1)
    })?;
    Ok(settings(values))
}

fn yaml(path: &Path, text: &str) -> Result<Vec<(String, OsString)>> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| wrong(path, error.marker().line()))?;
    let Some(Yaml::Hash(values)) = documents.into_iter().next() else {
        return Err(no_names(path));
    };
    let named = |(name, value): (Yaml, Yaml)| Some((name.into_string()?, from_yaml(value)));
    Ok(settings(values.into_iter().filter_map(named)))
}

fn from_yaml(value: Yaml) -> Value {
    match value {
        Yaml::String(text) => Value::String(text),
        // As it is written: 1e3 stays 1e3.
        Yaml::Real(text) => Value::String(text),
        Yaml::Integer(number) => number.into(),
        Yaml::Boolean(truth) => truth.into(),
        Yaml::Array(values) => values.into_iter().map(from_yaml).collect(),
        Yaml::Hash(values) => {
            let named = |(name, value): (Yaml, Yaml)| Some((name.into_string()?, from_yaml(value)));
            Value::Object(values.into_iter().filter_map(named).collect())
        }
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Vec<(String, String)> {
        let mut found: Vec<_> = parse(Path::new(name), text)
            .expect(name)
            .into_iter()
            .map(|(name, value)| (name, value.into_string().expect("text")))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let expected = [
            ("AWS_REGION", "eu-central-1"),
            ("AWS_S3_FORCE_PATH_STYLE", "true"),
            ("WALG_FAILOVER_STORAGES", r#"{"a":{"b":"c"}}"#),
            ("WALG_S3_PREFIX", "s3://b/p"),
            ("WALG_UPLOAD_CONCURRENCY", "4"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (name, text) in [
            (
                "/h/.walg.json",
                r#"{"walg_s3_prefix": "s3://b/p", "AWS_REGION": "eu-central-1", "Aws_S3_Force_Path_Style": true,
                    "WALG_UPLOAD_CONCURRENCY": 4, "AWS_PROFILE": null, "WALG_FAILOVER_STORAGES": {"a": {"b": "c"}}}"#,
            ),
            (
                "x.YAML",
                "# comment\nwalg_s3_prefix: s3://b/p\nAWS_REGION: \"eu-central-1\"\nAws_S3_Force_Path_Style: true\n\
                 WALG_UPLOAD_CONCURRENCY: 4\nAWS_PROFILE: ~\nWALG_FAILOVER_STORAGES:\n  a: {b: c}\n",
            ),
            (
                "x.toml",
                "walg_s3_prefix = 's3://b/p'\nAWS_REGION = \"eu-central-1\"\nAws_S3_Force_Path_Style = true\n\
                 WALG_UPLOAD_CONCURRENCY = 4\n[WALG_FAILOVER_STORAGES.a]\nb = 'c'\n",
            ),
        ] {
            assert_eq!(read(name, text), expected, "{name}");
        }
        assert_eq!(read("x.json", "{}"), []);
    }

    #[test]
    fn mistakes_are_told_by_their_line_and_not_repeated() {
        for (name, text, line) in [
            ("x.json", "{\n\"AWS_SECRET_ACCESS_KEY\": hunter2}", 2),
            ("x.toml", "a = 1\nAWS_SECRET_ACCESS_KEY = hunter2\n", 2),
            ("x.yaml", "a: 1\nAWS_SECRET_ACCESS_KEY: \"hunter2\nb: 2\n", 4),
        ] {
            let error = parse(Path::new(name), text).expect_err(name);
            let message = format!("{error} {error:?}");
            assert!(!message.contains("hunter2"), "{message}");
            assert!(
                error.to_string().contains(&format!("line {line} ")) || name == "x.yaml",
                "{message}"
            );
        }
        for (name, text) in [
            ("x.json", "[1]"),
            ("x.yaml", "just text"),
            ("x.yaml", ""),
            ("x.ini", "a=b"),
            ("x", "{}"),
        ] {
            parse(Path::new(name), text).expect_err(name);
        }
    }
}
