//! Writing objects that must not be there yet.

use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutPayload};

use super::Store;
use crate::create_only::{CreateOnly, Created};
use crate::error::{Error, Result};
use crate::fence::Write;
use crate::key::path;

/// Does the error look like that of a server that does not know the condition? It may as well be something else: only a
/// write without the condition tells.
fn is_refusal(error: &Error) -> bool {
    const ANSWERS: [&str; 2] = ["400 Bad Request", "405 Method Not Allowed"];
    // These say something of the moment, or of the content, and nothing of the request.
    const OTHERS: [&str; 6] = [
        "RequestTimeout",
        "ExpiredToken",
        "InvalidToken",
        "IncompleteBody",
        "BadDigest",
        "EntityTooLarge",
    ];
    let Error::Store { reason, .. } = error else {
        return false;
    };
    let says = |mark: &&str| reason.contains(*mark);
    ANSWERS.iter().any(&says) && !OTHERS.iter().any(says)
}

impl Store {
    /// The result of [`Store::probe_create_only`], if the store was asked.
    pub fn create_only(&self) -> Option<CreateOnly> {
        self.learned.get()
    }

    /// The same store, after another handle has found that.
    pub fn knowing(self, found: CreateOnly) -> Self {
        self.learned.set(found);
        self
    }

    /// Ask the store whether it tells the truth: an object that is there is created once more, with the content that it has.
    pub async fn probe_create_only(&self, key: &str, content: Bytes) -> Result<CreateOnly> {
        let found = match self.create_by_store(key, content.clone()).await {
            Ok(Created::Exists) => CreateOnly::Honoured,
            Ok(Created::Yes) => CreateOnly::Ignored,
            Err(Error::Unsupported { .. }) => CreateOnly::Unsupported,
            // A plain write is not refused for that.
            Err(error) if is_refusal(&error) && self.put(key, content).await.is_ok() => CreateOnly::Unsupported,
            Err(error) => return Err(error),
        };
        self.learned.set(found);
        Ok(found)
    }

    /// Write an object that must not be there yet. On a store that is known not to see to that, it is looked for first.
    pub async fn create(&self, key: &str, content: Bytes) -> Result<Created> {
        let mut refused = None;
        if matches!(self.create_only(), None | Some(CreateOnly::Honoured)) {
            match self.create_by_store(key, content.clone()).await {
                Err(Error::Unsupported { .. }) => self.learned.set(CreateOnly::Unsupported),
                Err(error) if is_refusal(&error) => refused = Some(error),
                answer => return answer,
            }
        }
        match (self.size(key).await, &mut refused) {
            (Ok(Some(_)), _) => return Ok(Created::Exists),
            (Ok(None), _) => self.put(key, content).await?,
            // Nothing is liked here, with a condition or without.
            (Err(error), refused) => return Err(refused.take().unwrap_or(error)),
        }
        if refused.is_some() {
            // The condition was what it did not like, and not the object.
            self.learned.set(CreateOnly::Unsupported);
        }
        Ok(Created::Yes)
    }

    async fn create_by_store(&self, key: &str, content: Bytes) -> Result<Created> {
        self.permitted(Write::Object).await?;
        let path = path(key);
        let deadline = self.deadline_for(content.len() as u64);
        let put = self
            .inner
            .put_opts(&path, PutPayload::from(content), PutMode::Create.into());
        match self.guarded(Write::Object, self.within(deadline, put)).await? {
            Some(Ok(_)) => Ok(Created::Yes),
            Some(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                Ok(Created::Exists)
            }
            Some(Err(error)) => Err(self.error("write", key, error)),
            None => Err(self.timeout("write", key, deadline)),
        }
    }
}
