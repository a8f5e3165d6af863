//! Connections that are reset in the middle of a body.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

const CONTENT: &[u8] = b"0123456789abcdef";

/// A store with one object, without entity tags. `sends` says how many bytes of the body the nth answer to a GET has before
/// the connection breaks.
fn broken_store(
    sends: impl Fn(usize) -> usize + Send + Sync + 'static,
) -> (Store, Arc<AtomicUsize>, tempfile::TempDir) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let (of_mock, sends) = (Arc::clone(&asked), Mutex::new(sends));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let nth = of_mock.fetch_add(1, Ordering::SeqCst);
            let limit = sends.lock().expect("no panic")(nth);
            drop(answer(&stream, limit));
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = StorageConfig::new("s3://bucket/p");
    config.options = format!("aws_endpoint=http://127.0.0.1:{port},allow_http=true")
        .parse()
        .expect("options");
    let text = "aws_access_key_id = A\naws_secret_access_key = S\n";
    config.credentials_file = Some(crate::support::secret_file(dir.path(), "credentials", text));
    (Store::open(&config).expect("a store"), asked, dir)
}

fn answer(mut stream: &TcpStream, limit: usize) -> std::io::Result<()> {
    let (mut start, mut partial) = (0, false);
    for line in BufReader::new(stream).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range
                .split('-')
                .next()
                .and_then(|start| start.parse().ok())
                .unwrap_or(0);
            partial = true;
        }
        if line.is_empty() {
            break;
        }
    }
    let (total, body) = (CONTENT.len(), &CONTENT[start..]);
    let status = if partial { "206 Partial Content" } else { "200 OK" };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\nLast-Modified: Wed, 21 Oct 2026 07:28:00 GMT\r\n",
        body.len()
    );
    if partial {
        head.push_str(&format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1));
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&body[..limit.min(body.len())])?;
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut stream.take(1 << 16), &mut std::io::sink()).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_before_its_first_byte_is_asked_for_again() {
    // Nothing, a bit, nothing twice, the rest.
    let (store, asked, _dir) = broken_store(|nth| [0, 5, 0, 0].get(nth).copied().unwrap_or(usize::MAX));
    let content = store.get("k", 100).await.expect("read").expect("there");
    assert_eq!(&content[..], CONTENT);
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_brings_anything_is_given_up() {
    let (store, asked, _dir) = broken_store(|_| 0);
    store.get("k", 100).await.expect_err("nothing ever comes");
    assert!(asked.load(Ordering::SeqCst) >= 3);
}
