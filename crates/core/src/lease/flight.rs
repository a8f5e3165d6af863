//! One question to the store serves all that want to know the same at the same time.
//!
//! When a renewal is due, every upload of a process finds out at the same moment. They share the answer, also when it is an
//! error: nobody waits for the others' questions, one after the other, while a store hangs.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;

use crate::error::Result;

type Answer<T> = BoxFuture<'static, Arc<Result<T>>>;

/// A question that is under way, or none.
#[derive(Debug)]
pub(super) struct Flight<T>(Mutex<UnderWay<T>>);

#[derive(Debug)]
struct UnderWay<T> {
    /// How many have begun.
    begun: u64,
    /// The last one. It ends when nobody waits for it any more.
    last: Option<WeakShared<Answer<T>>>,
    /// The last one that was answered.
    answered: Option<(u64, Arc<Result<T>>)>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Flight(Mutex::new(UnderWay {
            begun: 0,
            last: None,
            answered: None,
        }))
    }
}

impl<T: Copy + Send + Sync + 'static> Flight<T> {
    /// The answer to a question that was asked after this call. At most one that was asked before is waited for.
    pub(super) async fn ask<F>(&self, question: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let before = self.0.lock().begun;
        loop {
            let (number, answer) = self.join(&question);
            let outcome = answer.await;
            let mut under_way = self.0.lock();
            if under_way.answered.as_ref().is_none_or(|(last, _)| *last < number) {
                under_way.answered = Some((number, outcome));
            }
            // Perhaps a later one, while this task was not woken yet.
            if let Some((number, outcome)) = &under_way.answered
                && *number > before
            {
                return outcome.as_ref().clone();
            }
        }
    }

    fn join<F>(&self, question: &impl Fn() -> F) -> (u64, Shared<Answer<T>>)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut under_way = self.0.lock();
        let last = under_way.last.as_ref().and_then(WeakShared::upgrade);
        if let Some(answer) = last.filter(|answer| answer.peek().is_none()) {
            return (under_way.begun, answer);
        }
        let answer = question().map(Arc::new).boxed().shared();
        under_way.begun += 1;
        under_way.last = answer.downgrade();
        (under_way.begun, answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn all_that_wait_share_two_questions_at_most() {
        let (flight, asked) = (Arc::new(Flight::default()), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let (flight, asked) = (Arc::clone(&flight), Arc::clone(&asked));
            tokio::spawn(async move {
                let question = || {
                    let asked = Arc::clone(&asked);
                    async move {
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        match number {
                            0 => Ok(number),
                            _ => Err(Error::Cancelled),
                        }
                    }
                };
                flight.ask(question).await
            })
        };
        let first = ask();
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..20).map(|_| ask()).collect();
        assert!(matches!(first.await.expect("no panic"), Ok(0)));
        // Theirs was asked after they came, once for all, and its failure is everybody's.
        for other in others {
            other.await.expect("no panic").expect_err("the second question fails");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_question_for_whose_answer_nobody_waits_any_more_ends() {
        let flight = Flight::<()>::default();
        let never = || std::future::pending::<Result<()>>();
        let waited = tokio::time::timeout(Duration::from_millis(50), flight.ask(never)).await;
        assert!(waited.is_err());
        flight.ask(|| async { Ok(()) }).await.expect("another question");
    }
}
