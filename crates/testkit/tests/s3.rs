//! The testkit's own tests: the S3 server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use walarchive_testkit::{S3Server, TestDir};

/// Asks for an object without a signature, and returns the status line.
fn ask(server: &S3Server, key: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    write!(
        stream,
        "GET {key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn it_wants_credentials_and_comes_back_where_it_was() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    assert!(server.dir().is_dir());
    assert_eq!(server.url("some/prefix"), "s3://bucket/some/prefix");
    assert!(
        server
            .options()
            .contains(&format!("http://127.0.0.1:{},", server.port()))
    );
    assert!(ask(&server, "/bucket/key").expect("no answer").contains(" 403 "));

    std::fs::write(server.dir().join("key"), "content").expect("could not write");
    server.stop();
    assert_eq!(
        ask(&server, "/bucket/key").expect_err("it answers").kind(),
        ErrorKind::ConnectionRefused
    );
    server.start_again();
    assert!(ask(&server, "/bucket/key").expect("no answer").contains(" 403 "));
    assert!(server.dir().join("key").is_file());
}

#[test]
fn two_servers_get_two_ports() {
    let (one_dir, two_dir) = (TestDir::new(), TestDir::new());
    let (one, two) = (S3Server::start(&one_dir, "b"), S3Server::start(&two_dir, "b"));
    assert_ne!(one.port(), two.port());
}
