//! Asking the fence before and during each change.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::Store;
use crate::error::{Error, Result};
use crate::fence::{Fence, Write};

/// Objects that are deleted between two looks at the fence where a look costs little: a process may be stopped in the middle,
/// and go on much later.
const DELETES_OF_FILES: usize = 10;

/// The same where each deletion, and each look, is a request of its own.
const SINGLE_DELETES: usize = 100;

/// The same where a request takes many.
const DELETES: usize = 1000;

/// The same by time: a batch that takes longer asks the fence again.
const DELETES_FOR: Duration = if cfg!(test) {
    Duration::from_millis(100)
} else {
    Duration::from_secs(1)
};

/// A request that goes on for longer may have been repeated, or will be: the fence is asked again before that.
const AGAIN: Duration = if cfg!(test) {
    Duration::from_millis(200)
} else {
    Duration::from_secs(5)
};

/// The pause after a fence could not tell.
const PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// The same store, behind a fence.
    pub fn with_fence(&self, fence: Arc<dyn Fence>) -> Store {
        Store {
            fence: Some(fence),
            ..self.clone()
        }
    }

    /// The same store, behind the fence of another one, if that has one.
    pub fn with_fence_of(&self, other: &Store) -> Store {
        Store {
            fence: other.fence.clone(),
            ..self.clone()
        }
    }

    /// The same store, behind none.
    pub fn without_fence(&self) -> Store {
        Store {
            fence: None,
            ..self.clone()
        }
    }

    /// May anything be written now, and in the next moments? For whoever wants to know before he begins.
    pub async fn check_fence(&self) -> Result<()> {
        self.permitted(Write::Soon).await
    }

    pub(crate) async fn permitted(&self, write: Write) -> Result<()> {
        match &self.fence {
            Some(fence) => fence.permit(write).await.map_err(Error::Refused),
            None => Ok(()),
        }
    }

    /// Do what changes something, which has been permitted. It may be repeated for minutes, by whoever does it; so it is
    /// permitted again in the meantime, stands still until that is done, and ends if it is refused.
    pub(crate) fn guarded<T, W>(&self, write: Write, work: W) -> impl Future<Output = Result<T>> + use<T, W>
    where
        W: Future<Output = T>,
    {
        let (fence, patience) = (self.fence.clone(), self.deadline);
        async move {
            let mut work = pin!(work);
            let Some(fence) = fence else { return Ok(work.await) };
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(AGAIN) => permit_again(&*fence, write, patience).await?,
                    done = &mut work => return Ok(done),
                }
            }
        }
    }

    pub(super) fn deletes_at_once(&self, wanted: usize) -> usize {
        let is_single = ["gs:", "swift:"].iter().any(|scheme| self.url.starts_with(scheme));
        match &self.fence {
            None => wanted.max(1),
            Some(_) if self.may_vanish() => DELETES_OF_FILES,
            Some(_) if is_single => SINGLE_DELETES,
            Some(_) => DELETES,
        }
    }
}

/// When deletions were permitted last.
pub(super) struct Permitted(Duration);

impl Permitted {
    /// They were just now.
    pub(super) fn now() -> Self {
        Permitted(awake())
    }

    /// Before another deletion begins.
    pub(super) async fn renew(&mut self, store: &Store) -> Result<()> {
        if store.fence.is_some() && awake().saturating_sub(self.0) > DELETES_FOR {
            store.permitted(Write::Deletion).await?;
            *self = Self::now();
        }
        Ok(())
    }
}

/// Time since the start of the machine. It goes on while the machine sleeps, other than tokio's.
fn awake() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// A fence that cannot tell, since the store does not answer, is asked again as long as an operation may wait.
async fn permit_again(fence: &dyn Fence, write: Write, patience: Duration) -> Result<()> {
    let write = match write {
        Write::Object | Write::Soon => Write::Ongoing,
        other => other,
    };
    let until = Instant::now() + patience;
    loop {
        match fence.permit(write).await {
            Err(refusal) if !refusal.is_final && Instant::now() < until => {
                tracing::debug!(error = %refusal, "whether this server may still write is not known");
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer.map_err(Error::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::error::Refusal;

    /// Notes what it was asked for.
    #[derive(Debug, Default)]
    struct Asked(parking_lot::Mutex<Vec<Write>>);

    #[async_trait::async_trait]
    impl Fence for Asked {
        async fn permit(&self, write: Write) -> Result<(), Refusal> {
            self.0.lock().push(write);
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_goes_on_is_told_from_what_begins() {
        let config = ThrottleConfig {
            wait_put_per_call: AGAIN * 3,
            wait_delete_per_call: AGAIN * 3,
            ..ThrottleConfig::default()
        };
        let (store, asked) = (
            Store::of(Arc::new(ThrottledStore::new(InMemory::new(), config)), "memory:"),
            Arc::new(Asked::default()),
        );
        let store = store.with_fence(asked.clone());
        store.put("x", "y".into()).await.expect("written");
        store.delete("x").await.expect("deleted");
        let mut asked = asked.0.lock().clone();
        asked.dedup();
        assert_eq!(asked, [Write::Object, Write::Ongoing, Write::Deletion]);
    }

    /// Permits so many times.
    #[derive(Debug)]
    struct Until(AtomicUsize);

    #[async_trait::async_trait]
    impl Fence for Until {
        async fn permit(&self, _: Write) -> Result<(), Refusal> {
            let left = self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.map(|_| ()).map_err(|_| Refusal {
                reason: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("it is another's")),
                is_final: true,
            })
        }
    }

    /// Each answer comes soon, and all together take long: an S3 server that takes no request for many, for example.
    #[tokio::test]
    async fn deletions_one_by_one_end_when_they_are_permitted_no_more() {
        const MANY: usize = 1000;
        let config = ThrottleConfig {
            wait_delete_per_call: DELETES_FOR / 4,
            ..ThrottleConfig::default()
        };
        let memory = InMemory::new();
        let keys: Vec<String> = (0..MANY).map(|number| format!("old/{number}")).collect();
        let store = Store::of(Arc::new(ThrottledStore::new(memory, config)), "memory:");
        for key in &keys {
            store.put(key, "x".into()).await.expect("written");
        }
        let mut told = 0;
        let fenced = store.with_fence(Arc::new(Until(AtomicUsize::new(2))));
        let outcome = fenced.delete_many(&keys, |_| told += 1).await;
        assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
        let left = store.list("old").await.expect("listed").len();
        assert!(
            told > 0 && told + 20 >= MANY - left,
            "{told} were told, {left} are left"
        );
        assert!(left > MANY / 2, "{left} are left");
        // If each is a request of its own, they come in smaller batches.
        let swift = Store::of(Arc::new(InMemory::new()), "swift://container").with_fence(Arc::new(Asked::default()));
        assert_eq!(swift.deletes_at_once(MANY), SINGLE_DELETES);
    }

    /// The request is sent late, as a repetition is, and somebody else writes by then.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_takes_long_ends_when_it_is_permitted_no_more() {
        const LATE: Duration = Duration::from_secs(2);
        let config = ThrottleConfig {
            wait_put_per_call: LATE,
            wait_delete_per_call: LATE,
            ..ThrottleConfig::default()
        };
        let store = Store::of(Arc::new(ThrottledStore::new(InMemory::new(), config)), "memory:");
        store.put("old", "x".into()).await.expect("written");
        let fenced = |permits| store.with_fence(Arc::new(Until(AtomicUsize::new(permits))));
        let in_parts = async {
            let (mut upload, task) = fenced(1).upload("parts", CancellationToken::new());
            let produced = tokio::task::spawn_blocking(move || {
                let content = vec![1; crate::transfer::parts::PART_BYTES as usize * 2];
                std::io::Write::write_all(&mut upload, &content).and_then(|()| upload.finish())
            });
            let (_, outcome) = tokio::join!(produced, task.outcome());
            outcome.map(|_| ())
        };
        let old = ["old".to_owned()];
        let (one, two, three, four, many) = (fenced(1), fenced(1), fenced(1), fenced(3), fenced(1));
        let outcomes = tokio::join!(
            one.put("put", "x".into()),
            async { two.create("created", "x".into()).await.map(|_| ()) },
            three.delete("old"),
            many.delete_many(&old, |_| {}),
            in_parts,
            four.put("again", "x".into()),
        );
        for (at, outcome) in [outcomes.0, outcomes.1, outcomes.2, outcomes.3, outcomes.4, outcomes.5]
            .into_iter()
            .enumerate()
        {
            assert!(matches!(outcome, Err(Error::Refused(_))), "{at}: {outcome:?}");
        }
        tokio::time::sleep(LATE).await;
        let there: Vec<_> = store
            .list("")
            .await
            .expect("listed")
            .into_iter()
            .map(|object| object.key)
            .collect();
        assert_eq!(there, ["old"]);
        // A writer with permission goes on.
        fenced(usize::MAX).put("put", "x".into()).await.expect("written");
    }
}
