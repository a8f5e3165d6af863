//! Azure's ways to prove who asks, put into a request again: the shared key, a token, or a SAS in the query.

use object_store::Result;
use object_store::azure::{AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequest;

use crate::renewal::Apply;

const AUTHORIZATION: &str = "authorization";

/// The parameters of a SAS. None of them is one of the requests that object_store makes.
const SAS: [&str; 25] = [
    "sv", "ss", "srt", "sp", "se", "st", "spr", "sip", "sig", "sr", "si", "sdd", "ses", "skoid", "sktid", "skt", "ske",
    "sks", "skv", "saoid", "suoid", "scid", "rscc", "rscd", "tn",
];

pub(super) struct Azure {
    account: String,
}

impl Azure {
    pub(super) fn new(account: &str) -> Self {
        Azure {
            account: account.to_owned(),
        }
    }
}

impl Apply<AzureCredential> for Azure {
    fn is_signed(&self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        request.headers().contains_key(AUTHORIZATION) || query.split('&').any(|pair| pair.starts_with("sig="))
    }

    fn apply(&self, credential: &AzureCredential, request: &mut HttpRequest) -> Result<()> {
        for header in [AUTHORIZATION, "x-ms-date", "x-ms-version"] {
            request.headers_mut().remove(header);
        }
        let uri = request.uri().to_string();
        if let Some((path, query)) = uri.split_once('?') {
            let rest = without_sas(query);
            let question = if rest.is_empty() { "" } else { "?" };
            // A part of a URI that was one is one.
            if let Ok(uri) = format!("{path}{question}{rest}").parse() {
                *request.uri_mut() = uri;
            }
        }
        AzureAuthorizer::new(credential, &self.account).try_authorize(request)
    }
}

fn without_sas(query: &str) -> String {
    let is_sas = |pair: &&str| !SAS.contains(&pair.split('=').next().unwrap_or_default());
    query.split('&').filter(is_sas).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::client::HttpRequestBody;

    fn request(uri: &str) -> HttpRequest {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = uri.parse().expect("a URI");
        request
    }

    #[test]
    fn one_signature_takes_the_place_of_another() {
        let azure = Azure::new("account");
        let mut request = request("https://a.example/c?restype=container&comp=list&prefix=p%2Fsv");
        assert!(!azure.is_signed(&request));
        let sas = |sig: &str| AzureCredential::SASToken(vec![("sv".into(), "1".into()), ("sig".into(), sig.into())]);
        for sig in ["one", "two"] {
            azure.apply(&sas(sig), &mut request).expect("signed");
            assert!(azure.is_signed(&request));
            let query = request.uri().query().expect("a query");
            assert_eq!(
                query,
                format!("restype=container&comp=list&prefix=p%2Fsv&sv=1&sig={sig}")
            );
        }
        let token = AzureCredential::BearerToken("t".to_owned());
        for _ in 0..2 {
            azure.apply(&token, &mut request).expect("signed");
            assert_eq!(request.headers().get_all(AUTHORIZATION).iter().count(), 1);
            assert_eq!(request.uri().query(), Some("restype=container&comp=list&prefix=p%2Fsv"));
        }
    }
}
