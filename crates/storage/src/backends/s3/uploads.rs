//! Uploads in parts that are not complete.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::Result;
use object_store::aws::{AmazonS3, AmazonS3ConfigKey as Key, AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequest;
use url::Url;

use super::settings::Settings;
use crate::backends::xml_uploads::{Authorize, Client, XmlUploads};
use crate::config::is_true;
use crate::renewal::{Apply, Renewing, Signer, Signing};

/// The region that object_store takes if none is named.
const REGION: &str = "us-east-1";

/// The place of the bucket, and the way in which requests to it are signed: object_store knows both, and does not tell.
pub(super) struct Bucket {
    url: Option<Url>,
    region: String,
    signed: bool,
    request_payer: bool,
}

/// A signature as of the store's own requests.
pub(super) struct Signature {
    store: AmazonS3,
    region: String,
    signed: bool,
    request_payer: bool,
}

impl Bucket {
    /// The endpoint must be as object_store gets it.
    pub(super) fn of(settings: &Settings, bucket: &str) -> Self {
        let is = |key| settings.get(key).is_some_and(is_true);
        let region = settings.get(Key::Region).unwrap_or(REGION);
        let url = match (settings.get(Key::Endpoint), is(Key::VirtualHostedStyleRequest)) {
            (Some(endpoint), true) => endpoint.to_owned(),
            (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        // The sessions that directory buckets want are object_store's own affair.
        let express = is(Key::S3Express);
        Bucket {
            url: Url::parse(&url).ok().filter(|_| !express),
            region: region.to_owned(),
            signed: !is(Key::SkipSignature),
            request_payer: is(Key::RequestPayer),
        }
    }

    /// By which it is told from other buckets.
    pub(super) fn name(&self) -> String {
        self.url.as_ref().map_or_else(String::new, Url::to_string)
    }

    /// None if requests are not signed.
    pub(super) fn signer(&self, credentials: &Arc<Renewing<AwsCredential>>) -> Option<Arc<dyn Signer>> {
        let version_4 = Version4 {
            region: self.region.clone(),
            request_payer: self.request_payer,
        };
        self.signed
            .then(|| Signing::new(credentials, version_4) as Arc<dyn Signer>)
    }

    pub(super) fn uploads(self, store: &AmazonS3, client: Client) -> XmlUploads<AmazonS3, Signature> {
        XmlUploads {
            store: store.clone(),
            bucket: self.url,
            authorizer: Signature {
                store: store.clone(),
                region: self.region,
                signed: self.signed,
                request_payer: self.request_payer,
            },
            permission: "the permission s3:ListBucketMultipartUploads on the bucket",
            client,
        }
    }
}

#[async_trait]
impl Authorize for Signature {
    async fn authorize(&self, request: &mut HttpRequest) -> Result<()> {
        if !self.signed {
            return Ok(());
        }
        let credential = self.store.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_request_payer(self.request_payer)
            .try_authorize(request, None)
    }
}

/// AWS's signature version 4, put into a request again.
struct Version4 {
    region: String,
    request_payer: bool,
}

const HASH: &str = "x-amz-content-sha256";
const TOKEN: &str = "x-amz-security-token";

impl Apply<AwsCredential> for Version4 {
    fn is_signed(&self, request: &HttpRequest) -> bool {
        let signature = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        // Sessions of directory buckets have tokens of their own.
        signature.is_some_and(|value| value.starts_with("AWS4-"))
            && !request.headers().contains_key("x-amz-s3session-token")
    }

    fn apply(&self, credential: &AwsCredential, request: &mut HttpRequest) -> Result<()> {
        let hash = request.headers().get(HASH).and_then(|hash| hash.to_str().ok());
        // The digest of the content is known already.
        let digest = hash.and_then(digest);
        let signed = hash != Some("UNSIGNED-PAYLOAD");
        for header in ["authorization", TOKEN, "x-amz-date", HASH] {
            request.headers_mut().remove(header);
        }
        AwsAuthorizer::new(credential, "s3", &self.region)
            .with_sign_payload(signed)
            .with_request_payer(self.request_payer)
            .try_authorize(request, digest.as_deref())
    }
}

fn digest(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}
