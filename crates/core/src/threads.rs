//! Threads of their own for work that keeps a processor busy, so that it takes no more of a machine than it is allowed to.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::blocking::{blocking, outcome};
use crate::error::{Error, Result};

/// Work has so long to be done in time that nobody else needs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Work in steps that take a moment each. Between two of them it can be handed over to another thread.
pub(crate) trait Steps: Send + Sized + 'static {
    type Outcome: Send + 'static;

    /// Do the next step. False: there is none.
    fn go_on(&mut self) -> Result<bool>;

    /// What came of it.
    fn finish(self) -> Result<Self::Outcome>;
}

/// Do it all.
fn to_the_end<S: Steps>(mut work: S) -> Result<S::Outcome> {
    while work.go_on()? {}
    work.finish()
}

/// Do it until then. What is not done by then comes back.
fn until<S: Steps>(mut work: S, end: Instant) -> Result<std::result::Result<S::Outcome, S>> {
    while work.go_on()? {
        if Instant::now() >= end {
            return Ok(Err(work));
        }
    }
    work.finish().map(Ok)
}

/// Runs so much work at a time as it is allowed to, first come, first served. Patient threads try first: whoever makes this gives them
/// time that nobody else needs. Where there is hardly any, work that has waited for a second goes on in late ones, which get a little in
/// any case, half as much at a time. In a hurry neither of them is asked, but threads like all others. Threads start when there is work,
/// and end some seconds after it.
pub struct Threads {
    patient: Pool,
    late: Pool,
    usual: Pool,
    in_a_hurry: AtomicBool,
    turns: Mutex<Turns>,
}

/// Of both kinds of threads.
struct Turns {
    at_once: usize,
    free: Arc<Semaphore>,
    /// For what is late: what has a turn and gets no time must not keep it from going on.
    late: Arc<Semaphore>,
    /// For what is done in a hurry, for the same reason.
    soon: Arc<Semaphore>,
}

impl Turns {
    fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Turns {
            at_once,
            free: Arc::new(Semaphore::new(at_once)),
            late: Arc::new(Semaphore::new(at_once.div_ceil(2))),
            soon: Arc::new(Semaphore::new(at_once)),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_once = self.turns.lock().at_once;
        f.debug_struct("Threads")
            .field("at_once", &at_once)
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// No thread starts yet. Each one calls one of these first, to take its place among others.
    pub fn new(
        at_once: usize,
        patient: impl Fn() + Send + Sync + 'static,
        late: impl Fn() + Send + Sync + 'static,
        usual: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Ok(Threads {
            patient: Pool::new("walarchive pack", patient)?,
            late: Pool::new("walarchive late", late)?,
            usual: Pool::new("walarchive soon", usual)?,
            in_a_hurry: AtomicBool::new(false),
            turns: Mutex::new(Turns::new(at_once)),
        })
    }

    /// Run so much at a time from now on. What runs goes on.
    pub fn allow(&self, at_once: usize) {
        let mut turns = self.turns.lock();
        if turns.at_once != at_once.max(1) {
            *turns = Turns::new(at_once);
        }
    }

    /// From now on all must be done soon, or need not. What runs goes on.
    pub fn hurry(&self, in_a_hurry: bool) {
        self.in_a_hurry.store(in_a_hurry, Ordering::Relaxed);
    }

    fn is_in_a_hurry(&self) -> bool {
        self.in_a_hurry.load(Ordering::Relaxed)
    }

    async fn turn(&self, of: impl FnOnce(&Turns) -> &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let turns = Arc::clone(of(&self.turns.lock()));
        // It is never closed.
        turns.acquire_owned().await.map_err(|_| Error::Cancelled)
    }

    /// All its turns are taken as long as this is kept.
    #[cfg(test)]
    pub(crate) async fn occupied(&self) -> Vec<OwnedSemaphorePermit> {
        let (mut taken, at_once) = (Vec::new(), self.turns.lock().at_once);
        for _ in 0..at_once {
            taken.push(self.turn(|turns| &turns.free).await.expect("a turn"));
        }
        for _ in 0..at_once.div_ceil(2) {
            taken.push(self.turn(|turns| &turns.late).await.expect("a turn"));
        }
        taken
    }

    /// A panic in the work is a panic here. Work whose caller has gone is not begun. A turn is over when the work ends, whether anybody
    /// waits for it or not.
    async fn run<S: Steps>(&self, work: S) -> Result<S::Outcome> {
        if self.is_in_a_hurry() {
            return self.to_the_end(work).await;
        }
        let late_at = Instant::now() + PATIENCE;
        let left = match timeout_at(late_at, self.turn(|turns| &turns.free)).await {
            Ok(turn) => {
                let turn = turn?;
                let tried = self.patient.run(move || {
                    let _turn = turn;
                    until(work, late_at)
                });
                match tried.await? {
                    Ok(outcome) => return Ok(outcome),
                    Err(left) => left,
                }
            }
            Err(_) => work,
        };
        self.to_the_end(left).await
    }

    /// In late threads, or in usual ones.
    async fn to_the_end<S: Steps>(&self, work: S) -> Result<S::Outcome> {
        let turn = match self.is_in_a_hurry() {
            true => self.turn(|turns| &turns.soon).await?,
            false => self.turn(|turns| &turns.late).await?,
        };
        let finish = move || {
            let _turn = turn;
            to_the_end(work)
        };
        self.late().run(finish).await
    }

    /// Where goes on what got no time.
    fn late(&self) -> &Pool {
        if self.is_in_a_hurry() { &self.usual } else { &self.late }
    }
}

/// Threads of one kind.
struct Pool {
    /// Its blocking threads do the work. Nothing polls in it. None when it ends.
    runtime: Option<Runtime>,
}

impl Pool {
    fn new(name: &str, on_start: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .thread_name(name)
            .on_thread_start(on_start)
            .build()?;
        Ok(Pool { runtime: Some(runtime) })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match &self.runtime {
            Some(runtime) => outcome(runtime.spawn_blocking(work)).await,
            None => Err(Error::Cancelled),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}

/// Do what keeps a processor busy, and waits for nothing else: in its turn in these threads, if there are any.
pub(crate) async fn busy<S: Steps>(threads: Option<&Threads>, work: S) -> Result<S::Outcome> {
    match threads {
        Some(threads) => threads.run(work).await,
        None => blocking(move || to_the_end(work)).await,
    }
}

/// Do what keeps a processor busy, and waits for others in between: beside the rest, in one of the late threads, or of the usual ones, if there are any.
pub(crate) async fn busy_at_times<T: Send + 'static>(
    threads: Option<&Threads>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match threads {
        Some(threads) => threads.late().run(work).await,
        None => blocking(work).await,
    }
}

/// Work in one step.
#[cfg(test)]
pub(crate) struct Once<F>(pub(crate) F);

#[cfg(test)]
impl<T: Send + 'static, F: FnOnce() -> Result<T> + Send + 'static> Steps for Once<F> {
    type Outcome = T;

    fn go_on(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn finish(self) -> Result<T> {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Work that runs until it is told to end.
    struct Held {
        begun: mpsc::Receiver<()>,
        end: mpsc::Sender<()>,
    }

    fn held() -> (Held, impl FnOnce() -> Result<()> + Send + 'static) {
        let ((tell, begun), (end, told)) = (mpsc::channel(), mpsc::channel());
        let work = move || {
            tell.send(()).expect("somebody waits");
            // An error, too, is an end.
            let _ = told.recv_timeout(LONG);
            Ok(())
        };
        (Held { begun, end }, work)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn so_much_runs_at_once_and_what_waits_is_begun_in_its_order() {
        let started = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&started);
        let threads = Arc::new(
            Threads::new(
                1,
                move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                },
                || (),
                || (),
            )
            .expect("made"),
        );
        let run = |work| {
            let threads = Arc::clone(&threads);
            tokio::spawn(async move { busy(Some(&threads), Once(work)).await })
        };
        let (first, work) = held();
        let one = run(work);
        first.begun.recv_timeout(LONG).expect("it runs");
        let (second, work) = held();
        let two = run(work);
        assert!(
            second.begun.recv_timeout(Duration::from_millis(100)).is_err(),
            "it has to wait"
        );
        // What waits for others waits for no turn.
        busy_at_times(Some(&threads), || Ok(())).await.expect("done");
        first.end.send(()).expect("told");
        second.begun.recv_timeout(LONG).expect("its turn has come");
        second.end.send(()).expect("told");
        one.await.expect("joined").expect("done");
        two.await.expect("joined").expect("done");
        assert!(
            (1..=2).contains(&started.load(Ordering::SeqCst)),
            "threads are used again"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_may_be_allowed_meanwhile() {
        let threads = Arc::new(Threads::new(1, || (), || (), || ()).expect("made"));
        let (first, work) = held();
        let one = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { busy(Some(&threads), Once(work)).await }
        });
        first.begun.recv_timeout(LONG).expect("it runs");
        threads.allow(2);
        busy(Some(&threads), Once(|| Ok(()))).await.expect("beside the first");
        drop(first.end);
        one.await.expect("joined").expect("done");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_waits_for_any_more_is_not_begun_and_a_turn_is_given_back() {
        let threads = Arc::new(Threads::new(1, || (), || (), || ()).expect("made"));
        let (first, work) = held();
        let one = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { busy(Some(&threads), Once(work)).await }
        });
        first.begun.recv_timeout(LONG).expect("it runs");
        let begun = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&begun);
        let left = tokio::time::timeout(
            Duration::from_millis(50),
            busy(
                Some(&threads),
                Once(move || {
                    noted.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }),
            ),
        );
        assert!(left.await.is_err(), "it has to wait");
        first.end.send(()).expect("told");
        one.await.expect("joined").expect("done");
        busy(Some(&threads), Once(|| Ok(()))).await.expect("done");
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_comes_back_and_the_turn_with_it() {
        let threads = Arc::new(Threads::new(1, || (), || (), || ()).expect("made"));
        let panicking = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { busy(Some(&threads), Once(|| -> Result<()> { panic!("a defect") })).await }
        });
        assert!(panicking.await.expect_err("it panics").is_panic());
        busy(Some(&threads), Once(|| Ok(()))).await.expect("done");
    }

    /// Takes longer in the first of its threads than anybody waits.
    struct Starved {
        steps: Vec<std::thread::ThreadId>,
    }

    impl Steps for Starved {
        type Outcome = Vec<std::thread::ThreadId>;

        fn go_on(&mut self) -> Result<bool> {
            let here = std::thread::current().id();
            if self.steps.iter().all(|id| *id == here) {
                std::thread::sleep(PATIENCE / 3);
            }
            self.steps.push(here);
            Ok(self.steps.len() < 10)
        }

        fn finish(self) -> Result<Self::Outcome> {
            Ok(self.steps)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_gets_no_time_goes_on_where_there_is_some() {
        let late = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&late);
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let threads = Threads::new(1, || (), count, || ()).expect("made");
        let steps = busy(Some(&threads), Starved { steps: Vec::new() }).await.expect("done");
        assert_eq!(steps.len(), 10, "none is done twice or left out");
        assert!(
            steps.windows(2).filter(|pair| pair[0] != pair[1]).count() == 1,
            "{steps:?}"
        );
        assert_eq!(late.load(Ordering::SeqCst), 1);
    }

    /// Gets no time at all for a while.
    struct Stuck(mpsc::Receiver<()>);

    impl Steps for Stuck {
        type Outcome = ();

        fn go_on(&mut self) -> Result<bool> {
            let _ = self.0.recv_timeout(LONG);
            Ok(false)
        }

        fn finish(self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_gets_no_time_keeps_nothing_else_from_going_on() {
        let threads = Arc::new(Threads::new(1, || (), || (), || ()).expect("made"));
        let (end, stuck) = mpsc::channel();
        let one = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { busy(Some(&threads), Stuck(stuck)).await }
        });
        // Whichever of them comes first: these do not wait for it.
        for _ in 0..2 {
            let other = busy(Some(&threads), Once(|| Ok(())));
            tokio::time::timeout(LONG / 2, other)
                .await
                .expect("in time")
                .expect("done");
        }
        end.send(()).expect("told");
        one.await.expect("joined").expect("done");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_hurry_nothing_waits_for_time_that_nobody_needs() {
        let usual = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&usual);
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let threads = Threads::new(1, || (), || (), count).expect("made");
        let alone = |steps: &[std::thread::ThreadId]| steps.iter().all(|id| *id == steps[0]);
        for (in_a_hurry, expected) in [(false, 0), (true, 1)] {
            threads.hurry(in_a_hurry);
            let steps = busy(Some(&threads), Starved { steps: Vec::new() }).await.expect("done");
            assert_eq!((steps.len(), alone(&steps)), (10, in_a_hurry), "{steps:?}");
            busy_at_times(Some(&threads), || Ok(())).await.expect("done");
            assert_eq!(usual.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_gets_no_time_keeps_nothing_that_is_urgent_from_going_on() {
        let threads = Arc::new(Threads::new(1, || (), || (), || ()).expect("made"));
        let ((end, stuck), (end_late, stuck_late)) = (mpsc::channel(), mpsc::channel());
        let start = |stuck| {
            let threads = Arc::clone(&threads);
            tokio::spawn(async move { busy(Some(&threads), Stuck(stuck)).await })
        };
        let some = [start(stuck), start(stuck_late)];
        while threads.turns.lock().free.available_permits() > 0 || threads.turns.lock().late.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        threads.hurry(true);
        let urgent = busy(Some(&threads), Once(|| Ok(())));
        tokio::time::timeout(LONG / 2, urgent)
            .await
            .expect("in time")
            .expect("done");
        for end in [end, end_late] {
            end.send(()).expect("told");
        }
        for one in some {
            one.await.expect("joined").expect("done");
        }
    }
}
