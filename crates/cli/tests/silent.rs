//! A store that accepts connections and never answers: whoever waits is told.

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::Place;

/// The first line on stderr of a verb, which is ended then.
fn first_words(mut command: Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let stderr = child.stderr.take().expect("a pipe");
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        // A pipe that is closed is an empty line.
        _ = BufReader::new(stderr).read_line(&mut line);
        _ = sender.send(line);
    });
    let line = receiver.recv_timeout(Duration::from_secs(60));
    child.kill().expect("ended");
    child.wait().expect("ended");
    reader.join().expect("ended");
    line.expect("a line within a minute")
}

#[test]
fn verbs_with_much_patience_say_that_they_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let place = Place::new();
    let secrets = [
        ("WALG_S3_PREFIX", "s3://bucket/p"),
        ("AWS_ENDPOINT", &endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
    ];
    let lines: Vec<String> = secrets.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    place.write("silent.yaml", lines.join("\n").as_bytes(), 0o600);
    let file = place.path("silent.yaml").display().to_string();
    for (args, env) in [
        (&["copy", "--from", &file, "--to", &file][..], &[][..]),
        (&["catchup-fetch", "standby", "LATEST"], &secrets),
    ] {
        let said = first_words(place.command(args, env));
        let expected =
            "walarchive: note: \"s3://bucket/p\" has not answered for 5 s; it is asked again for up to 10 minutes\n";
        assert_eq!(said, expected, "{args:?}");
    }
}
