//! The program that prints keys.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::*;
use crate::crypt::key_command::{DEADLINE, run};

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// The error, as a user sees it.
fn told(command: &[String], deadline: Duration) -> String {
    let error = run(command, deadline).expect_err("refused");
    format!("{error}. {}", error.hint().unwrap_or_default())
}

fn config(command: Vec<String>) -> EncryptionConfig {
    EncryptionConfig {
        writes: Some(Method::Libsodium),
        key_command: command,
        ..EncryptionConfig::default()
    }
}

#[test]
fn what_the_program_prints_is_a_key_file() {
    // As the words are: no shell looks at them.
    let text = std::str::from_utf8(&KEY).expect("text");
    for command in [
        vec!["printf".to_owned(), "%s".to_owned(), text.to_owned()],
        shell(&format!("echo not this >&2; cat; echo {text}")),
    ] {
        let config = config(command);
        assert!(config.names_a_key());
        let text = format!("{config:?}");
        assert!(
            text.contains(&config.key_command[0]) && !text.contains("0123456789"),
            "{text}"
        );
        let keyring = Keyring::new(&config);
        let object = keyring.sealer().expect("a key").seal_small(b"text").expect("sealed");
        assert_eq!(decrypt(&object, &ring(&[KEY], &[], false)).expect("decrypted"), b"text");
    }
    let words = ["printf", "%s;", "a b", "$HOME", "*"].map(str::to_owned);
    assert_eq!(&run(&words, DEADLINE).expect("run")[..], b"a b;$HOME;*;");
    let large = run(&shell("head -c 1000000 /dev/zero"), DEADLINE).expect("run");
    assert_eq!(large.len(), 1_000_000);
}

#[test]
fn each_failure_is_told_without_what_was_printed() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = directory.path().join("plain").display().to_string();
    std::fs::write(&plain, "#!/bin/sh\n").expect("written");
    let of = |word: &str| vec![word.to_owned()];
    for (command, says) in [
        (
            of("/nowhere/vault"),
            "could not run key command \"/nowhere/vault\": No such file or directory",
        ),
        (
            of("no-such-program"),
            "could not run key command \"no-such-program\": No such file or directory",
        ),
        (of(&plain), "Permission denied"),
        (of("a\0b"), "could not run key command"),
        (
            shell("echo hunter2; echo hunter2 >&2; exit 3"),
            "key command \"sh\" gave no key: it ended with exit code 3",
        ),
        (shell("echo hunter2; kill -TERM $$"), "it was terminated by signal 15"),
        (
            shell("while :; do echo hunter2; done"),
            "it printed more than 1048576 bytes",
        ),
    ] {
        let text = told(&command, DEADLINE);
        assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
    }
    for output in ["echo hunter2", "true"] {
        let error = Keyring::new(&config(shell(output))).sealer().expect_err("no key");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("in the output of key command \"sh\" is not one"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn what_does_not_end_is_killed_with_its_group() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! > {}; wait; wait", file.display());
    let text = told(&shell(&script), Duration::from_secs(1));
    assert!(text.contains("it did not end within 1 s"), "{text}");
    let pids = std::fs::read_to_string(&file).expect("it ran");
    assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
    for pid in pids.split_whitespace() {
        wait_until(&format!("process {pid} is over"), || is_over(pid));
    }
}

/// It is no more, or nobody has yet asked how it ended.
fn is_over(pid: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.map_or(true, |status| status.contains("State:\tZ"))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_the_program_leaves_running_is_not_waited_for() {
    let start = Instant::now();
    let script = "sleep 1000 & echo $!";
    let output = run(&shell(script), DEADLINE).expect("run");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let pid = std::str::from_utf8(&output).expect("a number").trim();
    assert!(!is_over(pid), "an agent lives on");
    let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
}

/// In a server's threads all signals are blocked.
/// A server keeps sockets and WAL open, and not all of them are closed by themselves in a child.
#[test]
fn the_program_gets_no_file_that_is_open_here() {
    use std::os::fd::AsRawFd;

    let file = tempfile::NamedTempFile::new().expect("a file");
    fcntl(file.as_file(), FcntlArg::F_SETFD(FdFlag::empty())).expect("not closed by itself");
    let path = file.path().display().to_string();
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_file().as_raw_fd())).expect("open");
    assert_eq!(opened.display().to_string(), path);
    let seen = run(
        &shell("for fd in /proc/self/fd/*; do readlink $fd; done; true"),
        DEADLINE,
    )
    .expect("run");
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("/dev/null") && !seen.contains(&path), "{seen}");
}

#[test]
fn the_program_has_signals_as_a_new_process_has_them() {
    let thread = std::thread::spawn(|| {
        let all = SigSet::all();
        all.thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("blocked");
        run(&["cat", "/proc/self/status"].map(str::to_owned), DEADLINE).map(|output| output.to_vec())
    });
    let output = thread.join().expect("no panic").expect("run");
    let status = String::from_utf8(output).expect("text");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    // Two that the C library keeps for itself.
    const OF_THREADS: u64 = 0b11 << 31;
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !OF_THREADS), (0, 0), "{status}");
}

#[test]
fn a_program_that_fails_is_asked_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("asked");
    let text = std::str::from_utf8(&KEY).expect("text");
    let script = format!("test -e {0} && echo {text} || {{ touch {0}; exit 1; }}", file.display());
    let keyring = Keyring::new(&config(shell(&script)));
    let error = keyring.sealer().expect_err("the first time");
    assert!(error.to_string().contains("exit code 1"), "{error}");
    assert!(keyring.sealer().is_ok(), "the second time");
    std::fs::remove_file(&file).expect("removed");
    assert!(keyring.sealer().is_ok(), "the key is kept");
}

/// Each would wait as long as the program hangs, after all the others.
#[test]
fn those_who_wait_for_a_program_share_its_failure() {
    const TASKS: usize = 8;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("runs");
    let script = format!("echo run >> {}; sleep 1; exit 1", file.display());
    let keyring = Keyring::new(&config(shell(&script)));
    let together = std::sync::Barrier::new(TASKS);
    std::thread::scope(|scope| {
        for _ in 0..TASKS {
            scope.spawn(|| {
                together.wait();
                keyring.sealer().expect_err("it fails")
            });
        }
    });
    let runs = std::fs::read_to_string(&file).expect("it ran").lines().count();
    assert!((1..TASKS).contains(&runs), "{runs} runs");
}
