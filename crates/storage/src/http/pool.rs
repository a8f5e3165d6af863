//! The connections of a client, which are left behind when they no longer lead to the store: the store's name may have
//! another address by now, and only a new connection asks for it.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A client is not replaced sooner than that after a request of it had no answer.
const AFTER_SILENCE: Duration = Duration::from_secs(1);
/// The same after an answer that says that the server cannot serve. A busy one must not be given more to do.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

type Make = Box<dyn Fn() -> reqwest::Result<reqwest::Client> + Send + Sync>;

/// A client, and how to make the next one.
pub(crate) struct Pool {
    make: Make,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct Current {
    client: reqwest::Client,
    made: Instant,
}

/// A client for one request.
pub(crate) struct Lent {
    pub(crate) client: reqwest::Client,
    made: Instant,
}

/// Why connections are left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// They broke, or nothing came through them.
    Silence,
    /// The server at their end does not serve.
    Refusal,
}

impl Left {
    /// By the status of an answer.
    pub(crate) fn by(status: u16) -> Option<Self> {
        matches!(status, 500 | 502 | 503 | 504).then_some(Left::Refusal)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// With the first client made.
    pub(crate) fn new(
        make: impl Fn() -> reqwest::Result<reqwest::Client> + Send + Sync + 'static,
    ) -> reqwest::Result<Self> {
        let current = Current {
            client: make()?,
            made: Instant::now(),
        };
        Ok(Pool {
            make: Box::new(make),
            current: Mutex::new(current),
        })
    }

    /// For the next request.
    pub(crate) fn lend(&self) -> Lent {
        let Current { client, made } = self.current.lock().clone();
        Lent { client, made }
    }

    /// After a request that failed: the next one gets new connections. Requests that are on their way keep theirs.
    pub(crate) fn leave(&self, lent: &Lent, why: Left) {
        let least = match why {
            Left::Silence => AFTER_SILENCE,
            Left::Refusal => AFTER_REFUSAL,
        };
        let mut current = self.current.lock();
        // Somebody else may have done it already.
        if current.made != lent.made || current.made.elapsed() < least {
            return;
        }
        if let Ok(client) = (self.make)() {
            *current = Current {
                client,
                made: Instant::now(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use reqwest::dns::{Addrs, Name, Resolve, Resolving};

    use super::*;

    /// A name that leads to 127.0.0.x.
    #[derive(Clone)]
    struct Moving(Arc<AtomicU8>);

    impl Resolve for Moving {
        fn resolve(&self, _: Name) -> Resolving {
            let address = IpAddr::from([127, 0, 0, self.0.load(Ordering::SeqCst)]);
            Box::pin(async move { Ok(Box::new(std::iter::once(SocketAddr::new(address, 0))) as Addrs) })
        }
    }

    /// Answers each request with `answer`, on connections that stay; from the second request on not at all, if it is to hang.
    fn serve(listener: TcpListener, answer: &'static str, hangs: bool) {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut buffer = [0; 4096];
                    for number in 0.. {
                        if !matches!(stream.read(&mut buffer), Ok(1..)) {
                            return;
                        }
                        if number == 0 || !hangs {
                            let _ = stream.write_all(answer.as_bytes());
                        }
                    }
                });
            }
        });
    }

    const FIRST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
    const SECOND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
    const AWAY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

    /// The store moves to another address, and the old one answers so from then on, or hangs.
    async fn moved(first: &'static str, hangs: bool) {
        let old = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = old.local_addr().expect("an address").port();
        // The same port on another address of loopback is free as good as always.
        let new = TcpListener::bind(("127.0.0.2", port)).expect("the same port");
        serve(old, first, hangs);
        serve(new, SECOND, false);
        let name = Moving(Arc::new(AtomicU8::new(1)));
        let resolver = name.clone();
        let make = move || reqwest::Client::builder().dns_resolver(resolver.clone()).build();
        let pool = Pool::new(make).expect("a client");
        let ask = async |lent: &Lent| {
            let asked = lent.client.get(format!("http://store.test:{port}/")).send();
            tokio::time::timeout(Duration::from_secs(2), asked).await
        };
        let lent = pool.lend();
        let answer = ask(&lent).await.expect("in time").expect("an answer");
        let status = answer.status().as_u16();
        answer.bytes().await.expect("read");
        name.0.store(2, Ordering::SeqCst);
        if hangs {
            ask(&lent).await.expect_err("it hangs");
            pool.leave(&lent, Left::Silence);
        } else {
            let again = ask(&lent).await.expect("in time").expect("an answer");
            assert_eq!(again.status().as_u16(), 503, "the old connection still serves");
            pool.current.lock().made -= AFTER_REFUSAL;
            let lent = pool.lend();
            pool.leave(&lent, Left::by(status).expect("a reason"));
        }
        let answer = ask(&pool.lend()).await.expect("in time").expect("an answer");
        assert_eq!(answer.text().await.expect("read"), "second");
    }

    #[tokio::test]
    async fn a_store_that_moved_is_found_after_one_failure() {
        moved(FIRST, true).await;
        moved(AWAY, false).await;
    }

    #[tokio::test]
    async fn a_client_is_not_replaced_again_and_again() {
        let pool = Pool::new(|| reqwest::Client::builder().build()).expect("a client");
        let lent = pool.lend();
        pool.leave(&lent, Left::Silence);
        assert_eq!(pool.lend().made, lent.made, "it is new");
        pool.current.lock().made -= AFTER_SILENCE;
        let lent = pool.lend();
        pool.leave(&lent, Left::Refusal);
        assert_eq!(pool.lend().made, lent.made, "a busy store has its peace");
        pool.leave(&lent, Left::Silence);
        let next = pool.lend().made;
        assert_ne!(next, lent.made);
        // The next failure of the same client is no news.
        pool.current.lock().made -= AFTER_SILENCE;
        pool.leave(&lent, Left::Silence);
        assert_eq!(pool.lend().made, next - AFTER_SILENCE);
    }
}
