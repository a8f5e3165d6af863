use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::dir::TestDir;

/// After that many bytes an endless body breaks off, so that a test that should fail ends: more than any process here may use.
const ENDLESS: usize = 4 << 30;

/// A request that came to an [`HttpMock`].
#[derive(Debug, Clone)]
pub struct Request {
    /// As in `PUT`.
    pub method: String,
    /// The path with its query; the whole URL if the mock was used as a proxy.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The answer of an [`HttpMock`].
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The bytes that follow the body again and again, until the client goes away.
    endless: Option<Vec<u8>>,
}

impl Answer {
    /// An answer with this body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
            endless: None,
        }
    }

    /// An answer whose body begins so and then repeats a piece until the client has had enough.
    pub fn endless(status: u16, start: impl Into<Vec<u8>>, piece: &str) -> Answer {
        let pieces = (64 << 10) / piece.len().max(1) + 1;
        Answer {
            endless: Some(piece.repeat(pieces).into_bytes()),
            ..Answer::new(status, start)
        }
    }

    /// The same with a header more.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

/// A certificate for `localhost` and other names, and the certificate of the authority that signed it: files in PEM form.
pub struct TlsFiles {
    /// The certificate that a client has to trust.
    pub ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl TlsFiles {
    /// Makes them, for `localhost` and these names.
    pub fn create(dir: &TestDir, names: &[&str]) -> TlsFiles {
        let file = |name: &str| dir.path().join(name);
        let files = TlsFiles {
            ca: file("ca.pem"),
            certificate: file("tls.pem"),
            key: file("tls.key"),
        };
        let ca_key = file("ca.key");
        let ec = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ];
        let mut ca = Command::new("openssl");
        ca.args(["req", "-x509", "-subj", "/CN=walarchive test authority"])
            .args(ec);
        ca.args(["-addext", "keyUsage=critical,keyCertSign"]);
        run(ca.arg("-keyout").arg(&ca_key).arg("-out").arg(&files.ca));
        let names: String = names.iter().map(|name| format!(",DNS:{name}")).collect();
        let mut leaf = Command::new("openssl");
        leaf.args(["req", "-x509", "-subj", "/CN=localhost"]).args(ec);
        leaf.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        leaf.args(["-addext", &format!("subjectAltName=DNS:localhost,IP:127.0.0.1{names}")]);
        leaf.arg("-CA").arg(&files.ca).arg("-CAkey").arg(&ca_key);
        run(leaf.arg("-keyout").arg(&files.key).arg("-out").arg(&files.certificate));
        files
    }

    /// Makes one certificate for `localhost` that is its own authority, as `openssl req -x509` does if told no more.
    pub fn self_signed(dir: &TestDir) -> TlsFiles {
        let (certificate, key) = (dir.path().join("self.pem"), dir.path().join("self.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-subj", "/CN=localhost", "-newkey", "ec", "-pkeyopt"]);
        openssl.args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-addext"]);
        openssl.arg("subjectAltName=DNS:localhost,IP:127.0.0.1");
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        TlsFiles {
            ca: certificate.clone(),
            certificate,
            key,
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("could not run openssl");
    let say = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {say}");
}

/// An HTTP server in this process that answers as a function says, and remembers what it was asked. It ends when dropped.
///
/// With [`TlsFiles`] it also speaks TLS on the same port, and as a proxy it takes every host for itself.
pub struct HttpMock {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Answers a request.
type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

impl HttpMock {
    /// Starts one on a free port.
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> HttpMock {
        Self::listen(None, Arc::new(handler))
    }

    /// Starts one that speaks TLS as well.
    pub fn start_tls(files: &TlsFiles, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> HttpMock {
        let read = |path: &Path| std::fs::read(path).expect("could not read a TLS file");
        let certificate = CertificateDer::from_pem_slice(&read(&files.certificate)).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a TLS configuration");
        Self::listen(Some(Arc::new(config)), Arc::new(handler))
    }

    fn listen(tls: Option<Arc<ServerConfig>>, handler: Handler) -> HttpMock {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on loopback");
        let port = listener.local_addr().expect("a listener without an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&requests), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, handler, seen) = (tls.clone(), Arc::clone(&handler), Arc::clone(&seen));
                // A client that goes away is none of a mock's business.
                std::thread::spawn(move || drop(serve(stream, tls, &handler, &seen)));
            }
        });
        HttpMock {
            port,
            requests,
            stopped,
            thread: Some(thread),
        }
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpMock {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // The thread waits for a connection.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut first = [0];
    stream.peek(&mut first)?;
    match tls {
        // The first byte of a TLS handshake.
        Some(config) if first[0] == 0x16 => answer_one(&mut secure(config, stream)?, handler, seen),
        Some(config) => {
            let mut plain = stream.try_clone()?;
            let request = read_request(&mut plain)?;
            if request.method != "CONNECT" {
                return answer(&mut plain, request, handler, seen);
            }
            plain.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            answer_one(&mut secure(config, stream)?, handler, seen)
        }
        None => answer_one(&mut &stream, handler, seen),
    }
}

fn secure(config: Arc<ServerConfig>, stream: TcpStream) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}

fn answer_one(stream: &mut (impl Read + Write), handler: &Handler, seen: &Mutex<Vec<Request>>) -> io::Result<()> {
    let request = read_request(stream)?;
    answer(stream, request, handler, seen)
}

fn answer(
    stream: &mut (impl Read + Write),
    request: Request,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let head = request.method == "HEAD";
    let Answer {
        status,
        headers,
        body,
        endless,
    } = handler(&request);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let mut text = format!("HTTP/1.1 {status} Mock\r\nConnection: close\r\n");
    // A server may announce any length.
    let length_is_told = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let chunked = endless.is_some() && !length_is_told;
    if chunked {
        text.push_str("Transfer-Encoding: chunked\r\n");
    } else if !length_is_told {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    match endless {
        _ if head => {}
        None => stream.write_all(&body)?,
        Some(piece) => {
            let mut write = |bytes: &[u8]| match chunked {
                true => write_chunk(stream, bytes),
                false => stream.write_all(bytes),
            };
            write(&body)?;
            for _ in 0..ENDLESS / piece.len() {
                write(&piece)?;
            }
        }
    }
    stream.flush()
}

fn write_chunk(stream: &mut impl Write, chunk: &[u8]) -> io::Result<()> {
    if chunk.is_empty() {
        return Ok(());
    }
    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
    stream.write_all(chunk)?;
    stream.write_all(b"\r\n")
}

/// Reads no further than to the end of the request's head before it knows how long the body is: what follows may be TLS.
fn read_request(stream: &mut impl Read) -> io::Result<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut lines = BufReader::new(&head[..]).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    for line in lines {
        if let Some((name, value)) = line?.split_once(':') {
            request
                .headers
                .push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    request.body.resize(length.unwrap_or(0), 0);
    stream.read_exact(&mut request.body)?;
    Ok(request)
}
