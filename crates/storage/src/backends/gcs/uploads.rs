//! Uploads in parts that are not complete.

use async_trait::async_trait;
use object_store::Result;
use object_store::client::HttpRequest;
use object_store::gcp::{GcpCredential, GoogleCloudStorage};
use object_store::signer::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::backends::xml_uploads::{Authorize, Client, XmlUploads};
use crate::renewal::Apply;

/// The endpoint that object_store takes if none is named.
const BASE_URL: &str = "https://storage.googleapis.com";

/// The token of the store's own requests.
pub(super) struct Bearer {
    store: GoogleCloudStorage,
    signed: bool,
}

/// Those of a bucket; `signed` is false for one that everybody may use.
pub(super) fn uploads(
    store: &GoogleCloudStorage,
    base_url: Option<&str>,
    bucket: &str,
    signed: bool,
    client: Client,
) -> XmlUploads<GoogleCloudStorage, Bearer> {
    let base_url = base_url.unwrap_or(BASE_URL).trim_end_matches('/');
    let bucket = utf8_percent_encode(bucket, NON_ALPHANUMERIC);
    XmlUploads {
        store: store.clone(),
        bucket: Url::parse(&format!("{base_url}/{bucket}")).ok(),
        authorizer: Bearer {
            store: store.clone(),
            signed,
        },
        permission: "the permission storage.multipartUploads.list on the bucket",
        client,
    }
}

#[async_trait]
impl Authorize for Bearer {
    async fn authorize(&self, request: &mut HttpRequest) -> Result<()> {
        if !self.signed {
            return Ok(());
        }
        let credential = self.store.credentials().get_credential().await?;
        put(&credential, request);
        Ok(())
    }
}

fn put(credential: &GcpCredential, request: &mut HttpRequest) {
    // A text that cannot be a header is no token either, and the store will say so.
    if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", credential.bearer)) {
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
}

const AUTHORIZATION: &str = "authorization";

/// The token, put into a request again.
pub(super) struct Token;

impl Apply<GcpCredential> for Token {
    fn is_signed(&self, request: &HttpRequest) -> bool {
        request.headers().contains_key(AUTHORIZATION)
    }

    fn apply(&self, credential: &GcpCredential, request: &mut HttpRequest) -> Result<()> {
        put(credential, request);
        Ok(())
    }
}
