//! The file that the server asks for, and beside it the ones that it will ask for next.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::memory::{Mark, Memory};
use super::push::{Archive, Pushed};
use crate::error::Result;
use crate::wal::WalFileName;
use walarchive_storage::Brake;

/// A file whose upload takes longer than this waits for the link: the others leave it to that one.
const BEHIND: Duration = Duration::from_secs(2);

impl Archive {
    /// As [`Archive::push`]. Meanwhile the next files that are ready are pushed too, `most` at a time in all, and written down in
    /// `memory`. Whatever becomes of these, the outcome is that of `name`.
    pub async fn push_with_others(
        &self,
        directory: &Path,
        name: &WalFileName,
        memory: &Memory,
        most: usize,
    ) -> Result<Pushed> {
        // Where this file is refused nothing else is tried.
        Box::pin(self.claim()).await?;
        let mut waiting: VecDeque<WalFileName> = match memory.others(name, most.saturating_mul(2)) {
            Ok(others) => others.into(),
            Err(error) => {
                tracing::debug!(%error, "nothing is uploaded ahead");
                VecDeque::new()
            }
        };
        let (brake, behind) = (Brake::default(), Instant::now() + BEHIND);
        let mut asked = pin!(self.push(directory, name));
        let mut others = FuturesUnordered::new();
        let mut is_late = false;
        let pushed = loop {
            while !is_late && others.len() + 1 < most.max(1) {
                let Some(next) = waiting.pop_front() else { break };
                others.push(self.push_ahead(directory, next, memory, brake.clone()));
            }
            tokio::select! {
                biased;
                pushed = &mut asked => break pushed?,
                Some(is_stored) = others.next() => {
                    if !is_stored {
                        // It is told when the server asks for that file.
                        waiting.clear();
                    }
                }
                () = tokio::time::sleep_until(behind), if !is_late => {
                    is_late = true;
                    brake.hold(true);
                }
            }
        };
        // On a slow link the server should not have to wait for them, and they have sent little. Else they are nearly done.
        if !is_late {
            while others.next().await.is_some() {}
        }
        Ok(pushed)
    }

    /// Returns whether it is stored.
    async fn push_ahead(&self, directory: &Path, name: WalFileName, memory: &Memory, brake: Brake) -> bool {
        let path = directory.join(name.to_string());
        let pushed = async {
            let before = Mark::of(&path)?;
            let pushed = self.push_noting(directory, &name, Default::default(), brake).await?;
            Ok::<_, crate::Error>((before, pushed))
        };
        match pushed.await {
            // What was read is what it was before and is now.
            Ok((before, _)) if Mark::of(&path).is_ok_and(|after| after == before) => {
                memory.note(&name, before);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%name, %error, "could not upload it ahead");
                false
            }
        }
    }
}
