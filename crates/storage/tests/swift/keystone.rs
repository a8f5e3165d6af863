//! As much of Keystone, version 3, as a client of Swift needs: it hands out tokens of the Swift behind it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use serde_json::{Value, json};
use walarchive_testkit::SwiftServer;

/// Ends with the process.
pub struct Keystone {
    url: String,
    given: Arc<AtomicUsize>,
}

impl Keystone {
    /// With the object store of two regions; "far" is nowhere. Tokens last `lifetime` seconds.
    pub fn start(swift: &Arc<SwiftServer>, lifetime: i64) -> Keystone {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}/identity", listener.local_addr().expect("an address"));
        // The server is to stop when the test ends, and this thread may outlive it.
        let swift: Weak<SwiftServer> = Arc::downgrade(swift);
        let given = Arc::new(AtomicUsize::new(0));
        let count = given.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(swift) = swift.upgrade() else { return };
                serve(&stream, &swift, &count, lifetime);
            }
        });
        Keystone { url, given }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many tokens it gave.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: &TcpStream, swift: &SwiftServer, given: &AtomicUsize, lifetime: i64) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let (status, token, body) = match serde_json::from_slice(&body) {
        Ok(request) if first.starts_with("POST /identity/v3/auth/tokens ") && is_known(&request) => {
            given.fetch_add(1, Ordering::Relaxed);
            let token = format!("X-Subject-Token: {}\r\n", swift.token());
            ("201 Created", token, token_body(swift, lifetime))
        }
        Ok(_) if first.starts_with("POST /identity/v3/auth/tokens ") => {
            let message = "The request you have made requires authentication.";
            let error = json!({"error": {"code": 401, "message": message, "title": "Unauthorized"}});
            ("401 Unauthorized", String::new(), error)
        }
        _ => ("404 Not Found", String::new(), json!({"error": {"code": 404}})),
    };
    let body = body.to_string();
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\n{token}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
}

fn is_known(request: &Value) -> bool {
    let identity = &request["auth"]["identity"];
    let user = json!({"name": "archiver", "domain": {"id": "default"}, "password": "hunter2"});
    let by_password = *identity == json!({"methods": ["password"], "password": {"user": user}})
        && request["auth"]["scope"] == json!({"project": {"name": "ours", "domain": {"name": "Ours"}}});
    let credential = json!({"id": "0123", "secret": "hunter3"});
    let by_credential = *identity
        == json!({"methods": ["application_credential"], "application_credential": credential})
        && request["auth"].get("scope").is_none();
    by_password || by_credential
}

fn token_body(swift: &SwiftServer, lifetime: i64) -> Value {
    let endpoint = |interface: &str, region: &str, url: &str| json!({"interface": interface, "region": region, "region_id": region, "url": url});
    let endpoints = [
        endpoint("admin", "near", "http://127.0.0.1:1/v1"),
        endpoint("public", "near", &swift.storage_url()),
        endpoint("public", "far", "http://127.0.0.1:1/v1/AUTH_test"),
    ];
    let issued = chrono::Utc::now();
    json!({"token": {
        "issued_at": issued,
        "expires_at": issued + chrono::TimeDelta::seconds(lifetime),
        "catalog": [
            {"type": "identity", "endpoints": [endpoint("public", "near", "http://127.0.0.1:1")]},
            {"type": "object-store", "endpoints": endpoints},
        ],
    }})
}
