use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A server whose answers a test writes. It ends with the process: nobody is left to wait for it.
pub(super) struct Mock {
    url: String,
    requests: Arc<Mutex<HashMap<String, usize>>>,
}

impl Mock {
    /// The function gets this server's URL; the first line of the request up to the path, for the authentication, or the
    /// whole head, in lower case after the first line; and how often this first line was seen before.
    pub(super) fn start(answer: impl Fn(&str, &str, usize) -> Vec<u8> + Send + Sync + 'static) -> Mock {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<HashMap<String, usize>>>::default();
        let (seen, own_url, answer) = (requests.clone(), url.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, url, answer) = (seen.clone(), own_url.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(head) = read_request(&stream) else { return };
                    let first = head.split(" HTTP/").next().unwrap_or_default().to_owned();
                    let before = {
                        let mut seen = seen.lock();
                        let count = seen.entry(first.clone()).or_default();
                        *count += 1;
                        *count - 1
                    };
                    let told = if first == "GET /auth" { &first } else { &head };
                    let _ = (&stream).write_all(&answer(&url, told, before));
                });
            }
        });
        Mock { url, requests }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// How many requests began so.
    pub(super) fn seen(&self, start: &str) -> usize {
        let requests = self.requests.lock();
        let matching = requests.iter().filter(|(first, _)| first.starts_with(start));
        matching.map(|(_, count)| count).sum()
    }

    pub(super) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
        let length = match headers.contains("Content-Length") {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", body.len()),
        };
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}{length}\r\n{body}").into_bytes()
    }

    pub(super) fn token(url: &str, token: &str) -> Vec<u8> {
        let headers = format!("X-Auth-Token: {token}\r\nX-Storage-Url: {url}/v1\r\n");
        Mock::answer("200 OK", &headers, "")
    }

    /// Longer than any test waits.
    pub(super) fn hang() -> Vec<u8> {
        std::thread::sleep(Duration::from_secs(60));
        Vec::new()
    }
}

fn read_request(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    reader.read_line(&mut head).ok().filter(|bytes| *bytes > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some(head)
}
