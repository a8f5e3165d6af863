//! Answers that send us elsewhere. Nobody goes there: it may be any host, and requests hold secrets.

use url::Url;

#[derive(Debug, thiserror::Error)]
#[error("the store answered {status} and redirects to {place}, which is not followed{region}{text}")]
pub(crate) struct Redirected {
    status: String,
    place: String,
    region: String,
    text: String,
}

/// Is it such an answer? "Not modified" is none.
pub(crate) fn is_redirection(status: u16) -> bool {
    (300..400).contains(&status) && status != 304
}

impl Redirected {
    /// `header` tells the text of a header.
    pub(crate) fn new<'a>(status: impl ToString, header: impl Fn(&str) -> Option<&'a str>, text: &str) -> Self {
        let region = header("x-amz-bucket-region").filter(|region| !text.contains("<Region>") && !region.contains('<'));
        Redirected {
            status: status.to_string(),
            place: header("location").map_or_else(|| "another place that it does not name".to_owned(), place),
            region: region.map_or_else(String::new, |region| format!(" (<Region>{region}</Region>)")),
            text: match text.trim() {
                "" => String::new(),
                text => format!(": {text}"),
            },
        }
    }
}

/// The new place, without the query and other parts that may hold a secret of the request.
fn place(location: &str) -> String {
    match Url::parse(location) {
        Ok(url) => {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            let host = url.host_str().unwrap_or_default();
            format!("\"{}://{host}{port}\"", url.scheme())
        }
        Err(_) => "another path".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_the_request_is_repeated() {
        let say = |location: &'static str| {
            let header = |name: &str| (name == "location").then_some(location);
            Redirected::new("307 Temporary Redirect", header, "").to_string()
        };
        assert_eq!(
            say("https://u:hunter2@h:9/a/b?sig=hunter2#hunter2"),
            "the store answered 307 Temporary Redirect and redirects to \"https://h:9\", which is not followed"
        );
        assert!(!say("/a?sig=hunter2").contains("hunter2"));
    }
}
