//! `walarchive.storage` as a URL: a place, and no more than a place.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::error::{Error, Result};

const HINT: &str = "walarchive.storage is a URL: \"s3://bucket/prefix\", \"gs://bucket/prefix\", \"az://container/prefix\", \
                    \"swift://container/prefix\", \"sftp://user@host/path\" or \"file:///absolute/path\".";

/// The URL, if a store can be opened by it. Looks at its text only.
pub(super) fn parse(text: &str) -> Result<Url> {
    let text = text.trim();
    if text.starts_with(QUOTES) || text.ends_with(QUOTES) || in_bucket(text).contains(QUOTES) {
        return Err(Error::config(
            format!("storage {} has a quote where none belongs", redact(text).escape_debug()),
            HINT,
        ));
    }
    // A URL without a slash there is read as one with it.
    let path = text
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("file:"))
        .map(|_| &text[5..]);
    if path.is_some_and(|path| !path.starts_with('/')) {
        return Err(Error::config(
            format!("storage \"{}\" is not an absolute path", redact(text)),
            HINT,
        ));
    }
    let url = Url::parse(text)
        .map_err(|error| Error::config(format!("storage \"{}\" is not a URL: {error}", redact(text)), HINT))?;
    // An account's name is part of the place only where there is no other way to say whose home it is.
    let user = !url.username().is_empty() && url.scheme() != "sftp";
    if url.password().is_some() || user || url.query().is_some() || url.fragment().is_some() {
        return Err(Error::config(
            format!("storage \"{}\" has more than a bucket and a prefix", redact(text)),
            "Write the bucket and the prefix only; put options into walarchive.storage_options, credentials into the \
             environment or into the file named by walarchive.credentials_file.",
        ));
    }
    if matches!(url.scheme(), "file" | "sftp") && has_dots(text) {
        return Err(Error::config(
            format!("storage \"{}\" has a path with \".\" or \"..\" in it", redact(text)),
            format!("Write the path without them. \"{url}\" is meant, if no part of it is a symbolic link."),
        ));
    }
    let named = url.host_str().is_some_and(|host| !host.is_empty());
    let problem = match url.scheme() {
        "file" if !named && url.path().len() > 1 => return Ok(url),
        "file" => "is not an absolute path",
        "s3" | "gs" | "az" | "swift" if named => return check_prefix(text, &url).map(|()| url),
        "sftp" if named => return Ok(url),
        "s3" | "gs" => "names no bucket",
        "az" | "swift" => "names no container",
        "sftp" => "names no host",
        scheme => {
            return Err(Error::config(
                format!("storage scheme \"{scheme}\" is not supported"),
                HINT,
            ));
        }
    };
    Err(Error::config(format!("storage \"{}\" {problem}", redact(text)), HINT))
}

/// In a configuration file a value has one pair of quotes around it, and a quote too many would be asked for as a host's name.
const QUOTES: [char; 2] = ['\'', '"'];

/// The text after the scheme, up to the first slash; empty for a path.
fn in_bucket(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// A URL forgets dots, so the place would have two names. They count where they are written as %2e, too.
fn has_dots(text: &str) -> bool {
    let plain = text.to_ascii_lowercase().replace("%2e", ".");
    plain.split('/').any(|part| matches!(part, "." | ".."))
}

/// A prefix must be one that the keys below it can have. The text is looked at as it was written: a URL forgets dots.
fn check_prefix(text: &str, url: &Url) -> Result<()> {
    let path = text.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    let path = path.map_or("", |(_, path)| path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
    if text.ends_with("//") || (!path.is_empty() && path.split('/').any(is_odd)) {
        return Err(Error::config(
            format!("storage \"{}\" has an invalid prefix", redact(text).escape_debug()),
            "Use a prefix without empty or dotted parts, as in \"s3://bucket/some/prefix\".",
        ));
    }
    prefix(url).map(|_| ())
}

/// The URL up to the bucket or the container, for messages; up to its end where there is none.
pub(super) fn place(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() && url.scheme() != "sftp" => format!("{}://{}", url.scheme(), bucket(&url)),
        _ => text.trim_end_matches('/').to_owned(),
    }
}

/// The bucket or container that the URL names.
pub(super) fn bucket(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// The store of a whole bucket, seen from the prefix that the URL names.
pub(super) fn below_prefix(store: impl ObjectStore, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let prefix = prefix(url)?;
    Ok(if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    })
}

/// The prefix that the URL names; may be empty.
pub(super) fn prefix(url: &Url) -> Result<Path> {
    Path::from_url_path(url.path().trim_matches('/')).map_err(|error| {
        Error::config(
            format!("storage \"{url}\" has an invalid prefix: {error}"),
            "Use a prefix without empty or dotted parts.",
        )
    })
}

/// The text without a part that may be `user:password`, and the text after the place.
fn redact(text: &str) -> String {
    let text = match text.find(['?', '#']) {
        Some(end) => format!("{}***", &text[..=end]),
        None => text.to_owned(),
    };
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &text[..scheme + 3], &text[at..]),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_repeated_where_it_may_be_a_secret() {
        for (text, says) in [
            (
                "file:///x?password=hunter2",
                "storage \"file:///x?***\" has more than a bucket and a prefix",
            ),
            (
                "file:///x#hunter2",
                "storage \"file:///x#***\" has more than a bucket and a prefix",
            ),
            (
                "s3://b/p?x=hunter2@y",
                "storage \"s3://b/p?***\" has more than a bucket and a prefix",
            ),
            (
                "s3://me:hunter2@b/p?hunter2",
                "storage \"s3://***@b/p?***\" has more than a bucket and a prefix",
            ),
            (
                "x?hunter2",
                "storage \"x?***\" is not a URL: relative URL without a base",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.to_string(), says);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_quote_too_many_is_refused() {
        for text in [
            "'s3://bucket/p'",
            "\"s3://bucket/p",
            "s3://bucket/p'",
            "s3://'bucket'/p",
            "s3://buc\"ket",
            "file:///x'",
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.to_string().ends_with("has a quote where none belongs"),
                "{text}: {error}"
            );
        }
        assert!(parse("s3://bucket/bob's/p").is_ok() && parse("file:///bob's/x").is_ok());
    }

    #[test]
    fn a_place_has_one_name() {
        for text in [
            "file:///a/../b",
            "file:///a/./b",
            "file:///a/..",
            "file:///a/%2E%2e/b",
            "sftp://u@h/a/../b",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().ends_with("in it"), "{text}: {error}");
        }
        assert!(parse("file:///a/..b/.c/d..").is_ok());
    }

    #[test]
    fn a_relative_path_is_refused_and_spaces_around_are_none_of_it() {
        for text in ["file:relative", "FILE:relative/x", "file:", "file://host/x", "file:?x"] {
            let error = parse(text).expect_err(text);
            assert!(
                error.to_string().ends_with("is not an absolute path"),
                "{text}: {error}"
            );
        }
        assert_eq!(parse(" file:///x \n").expect("a URL").as_str(), "file:///x");
        assert!(parse("file:/x").is_ok());
    }
}
