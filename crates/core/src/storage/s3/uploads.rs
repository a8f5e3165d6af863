//! Uploads in parts that are not complete.

use async_trait::async_trait;
use object_store::Result;
use object_store::aws::{AmazonS3, AmazonS3ConfigKey as Key, AwsAuthorizer};
use object_store::client::HttpRequest;
use url::Url;

use super::settings::Settings;
use crate::storage::cloud;
use crate::storage::xml_uploads::{Authorize, Client, XmlUploads};

/// What object_store takes if none is named.
const REGION: &str = "us-east-1";

/// Where the bucket is, and how requests to it are signed: what object_store knows, and does not tell.
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
        let is = |key| settings.get(key).is_some_and(cloud::is_true);
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
