//! No secret where it can be read by somebody who must not: logs, views, settings, errors, process lists, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{AzuriteServer, Cluster, PATIENCE, S3Server, SwiftServer, run};

/// The parts of a wrong credential.
const WRONG: &str = "d3JvbmctYW5kLXNlY3JldA==";

/// The secrets, in every form that may turn up, and the places where we looked for them.
struct Hunt {
    forms: Vec<String>,
    searched: usize,
}

impl Hunt {
    fn for_all(secrets: impl IntoIterator<Item = String>) -> Hunt {
        let mut forms = Vec::new();
        for secret in secrets {
            assert!(secret.len() >= 8, "too short to be told from chance: {secret}");
            let escaped = |byte: u8| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            };
            forms.push(secret.bytes().map(escaped).collect());
            forms.push(secret.replace(' ', "+"));
            forms.push(base64(secret.as_bytes()).trim_end_matches('=').to_owned());
            forms.push(secret);
        }
        Hunt { forms, searched: 0 }
    }

    #[track_caller]
    fn search(&mut self, place: &str, text: &str) {
        self.search_bytes(place, text.as_bytes());
    }

    #[track_caller]
    fn search_bytes(&mut self, place: &str, bytes: &[u8]) {
        for form in &self.forms {
            let found = find(bytes, form.as_bytes());
            assert!(
                found.is_none(),
                "a secret in {place}: {}",
                around(bytes, found.unwrap_or(0))
            );
        }
        self.searched += bytes.len();
    }

    /// Every file below a directory. Returns how many there were.
    #[track_caller]
    fn search_files(&mut self, dir: &Path) -> usize {
        let mut count = 0;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                count += self.search_files(&path);
            } else if let Ok(bytes) = fs::read(&path) {
                self.search_bytes(&path.display().to_string(), &bytes);
                count += 1;
            }
        }
        count
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn around(bytes: &[u8], at: usize) -> String {
    let (start, end) = (at.saturating_sub(200), bytes.len().min(at + 100));
    String::from_utf8_lossy(&bytes[start..end]).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let pad = digit > chunk.len();
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if pad { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    text
}

#[test]
fn base64_is_right() {
    for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
    assert_eq!(find(b"aab", b"ab"), Some(1));
    assert_eq!(find(b"aab", b"abc"), None);
}

/// Looks at the command lines of all processes until it is told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start() -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    // s3s-fs takes its key as an argument: that is the store, and not ours.
                    if !line.is_empty() && !line.contains("s3s-fs") {
                        seen.insert(line);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Watch { stop, thread }
    }

    fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

/// The work of a day, and a search of everything that it left.
fn keeps_its_secrets(site: &Site) {
    let server = site.server().expect("a store with credentials");
    let secrets = server.secrets();
    assert!(!secrets.is_empty(), "nothing to look for");
    let mut hunt = Hunt::for_all(secrets.into_iter().chain([WRONG.to_owned()]));
    let watch = Watch::start();

    let primary = site.primary(&[
        ("log_min_messages", "debug5"),
        ("log_error_verbosity", "verbose"),
        ("log_statement", "all"),
    ]);
    primary.psql("CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, 100000) i");
    backup(&primary, "");
    archive_all(&primary);
    search_sql(&mut hunt, &primary);
    a_failing_credential(site, &mut hunt, &primary);
    primary.psql("INSERT INTO t VALUES ('later')");
    archive_all(&primary);
    search_sql(&mut hunt, &primary);

    for args in [&["backup-list"][..], &["backup-list", "--json"]] {
        command(site, &mut hunt, args, true);
    }
    let segment = primary.psql("SELECT last_archived_wal FROM pg_stat_archiver");
    let fetched = site.dir().join(&segment).display().to_string();
    command(site, &mut hunt, &["wal-fetch", &segment, &fetched], true);
    command(site, &mut hunt, &["wal-push", &fetched], true);
    command(
        site,
        &mut hunt,
        &["wal-fetch", "0000000100000000000000AA", &fetched],
        false,
    );
    let target = site.dir().join("restored");
    let path = target.display().to_string();
    lose(&primary);
    command(site, &mut hunt, &["backup-fetch", &path, "LATEST"], true);
    assert!(hunt.search_files(&target) > 500);
    let restored = site
        .restored("again")
        .setting("log_min_messages", "debug5")
        .attach(&target);
    restored.wait_promoted(PATIENCE);
    restored.psql("SELECT walarchive_backup_list()");
    hunt.search("the log of the restored server", &our_share(&restored.log()));
    server.stop();
    command(site, &mut hunt, &["backup-list"], false);

    hunt.search("the server's log", &our_share(&primary.log()));
    let lines = watch.end();
    for program in [
        "walarchive backup-fetch",
        "walarchive wal-fetch",
        "walarchive backup-list",
        "postgres: archiver",
    ] {
        let seen = lines.iter().any(|line| line.contains(program));
        assert!(seen, "the process list was not watched: no {program}");
    }
    for line in &lines {
        hunt.search("the process list", line);
    }
    if let Some(files) = server.files() {
        assert!(hunt.search_files(&files) > 10);
    }
    assert!(hunt.searched > 1 << 20, "only {} bytes were searched", hunt.searched);
}

/// A log without the environment, which a postmaster itself dumps at debug3 and finer (`PostmasterMain()`): one message for
/// each variable up to PostgreSQL 17, one of many lines since.
fn our_share(log: &str) -> String {
    let mut in_dump = false;
    let (dump, rest): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| {
        in_dump = line.ends_with("initial environment dump:") || (in_dump && line.starts_with('\t'));
        let variable = line.split_once(" postmaster DEBUG:  00000: \t");
        in_dump || variable.is_some_and(|(_, variable)| variable.contains('='))
    });
    assert!(dump.len() < 100, "that is more than environments: {dump:?}");
    rest.join("\n")
}

/// The binary at its most talkative.
#[track_caller]
fn command(site: &Site, hunt: &mut Hunt, args: &[&str], succeeds: bool) {
    let mut command = site.walarchive(args);
    command.arg("-v").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let output = run(&mut command);
    assert_eq!(output.success(), succeeds, "{args:?}: {}", output.stderr);
    assert!(
        output.stderr.contains("TRACE"),
        "it did not say all that it could: {}",
        output.stderr
    );
    hunt.search(
        &format!("what {args:?} said"),
        &format!("{}\n{}", output.stdout, output.stderr),
    );
}

/// All that SQL shows.
#[track_caller]
fn search_sql(hunt: &mut Hunt, cluster: &Cluster) {
    let views = cluster.psql(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid JOIN pg_extension e ON d.refobjid = e.oid
          WHERE e.extname = 'walarchive' AND c.relkind = 'v'",
    );
    assert!(views.lines().count() >= 3, "{views}");
    let functions = cluster.psql(
        "SELECT p.oid::regproc FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid JOIN pg_extension e ON d.refobjid = e.oid
          WHERE e.extname = 'walarchive' AND p.pronargs = p.pronargdefaults AND p.proretset",
    );
    assert!(functions.lines().count() >= 3, "{functions}");
    let calls = functions.lines().map(|function| format!("{function}()"));
    let system = [
        "pg_settings",
        "pg_file_settings",
        "pg_stat_archiver",
        "pg_stat_activity",
        "pg_stat_progress_basebackup",
    ];
    for from in views
        .lines()
        .map(str::to_owned)
        .chain(calls)
        .chain(system.map(str::to_owned))
    {
        let output = cluster.try_psql_verbose(&format!("SELECT * FROM {from}"));
        hunt.search(&from, &format!("{}\n{}", output.stdout, output.stderr));
    }
    hunt.search("SHOW ALL", &cluster.psql("SHOW ALL"));
    for name in ["postgresql.conf", "postgresql.auto.conf"] {
        let text = fs::read_to_string(cluster.datadir().join(name)).expect("a configuration file");
        hunt.search(name, &text);
    }
}

/// The wrong credential, then a file that is none, then the right one again.
fn a_failing_credential(site: &Site, hunt: &mut Hunt, primary: &Cluster) {
    let server = site.server().expect("a store with credentials");
    let secrets = server.secrets();
    let mut wrong = server.credentials();
    for (_, value) in wrong.iter_mut().filter(|(_, value)| secrets.contains(value)) {
        *value = WRONG.to_owned();
    }
    let in_use = site.credentials_file().map(Path::to_owned);
    let other = site.dir().credentials_file("wrong", &wrong);
    primary.set("walarchive.credentials_file", &other.display().to_string());
    for malformed in [false, true] {
        if malformed {
            let text: String = secrets.iter().map(|secret| format!("{secret}\n")).collect();
            fs::write(&other, text).expect("could not write");
        }
        let mark = primary.log_mark();
        primary.reload();
        primary.switch_wal();
        primary.wait_log_since(mark, "could not archive", PATIENCE);
        let error = primary.try_psql_verbose("SELECT * FROM walarchive_backups");
        assert!(!error.success(), "a wrong credential was taken: {}", error.stdout);
        hunt.search("an error in psql", &error.stderr);
        let error = primary.try_psql_verbose("SELECT walarchive_backup_push()");
        assert!(!error.success(), "a wrong credential was taken: {}", error.stdout);
        hunt.search("an error in psql", &error.stderr);
        search_sql(hunt, primary);
        let mut list = site.walarchive(&["backup-list", "-v"]);
        list.arg("--credentials-file").arg(&other).env("RUST_LOG", "trace");
        if in_use.is_none() {
            let output = run(&mut list);
            assert!(!output.success(), "a wrong credential was taken: {}", output.stdout);
            hunt.search(
                "an error of the binary",
                &format!("{}\n{}", output.stdout, output.stderr),
            );
        }
    }
    let right = in_use.map(|file| file.display().to_string()).unwrap_or_default();
    primary.set("walarchive.credentials_file", &right);
    primary.reload();
    primary.wait_until("everything is archived", PATIENCE, || {
        primary.waiting_files().is_empty()
    });
}

#[test]
fn s3_in_the_environment() {
    keeps_its_secrets(&Site::on(|dir| S3Server::start(dir, "bucket")));
}

#[test]
fn s3_in_a_file() {
    keeps_its_secrets(&Site::on(|dir| S3Server::start(dir, "bucket")).with_credentials_file());
}

#[test]
fn azure_in_the_environment() {
    keeps_its_secrets(&Site::on(|dir| AzuriteServer::start(dir, "container")));
}

#[test]
fn swift_in_a_file() {
    keeps_its_secrets(&Site::on(SwiftServer::start).with_credentials_file());
}
