//! The functions in databases whose encoding is not UTF-8, and with arguments that nobody means: an answer or an error of one
//! message, and never the end of the server.

use walarchive_pg_test::site::{Site, backup};
use walarchive_testkit::{Cluster, Output, run};

/// Databases, and a text that their encoding has and UTF-8 writes otherwise.
const ENCODINGS: &[(&str, &str)] = &[
    ("LATIN1", "\\xe9"),
    ("SQL_ASCII", "\\xe9"),
    ("EUC_JP", "\\xa4a2"),
    ("UTF8", "\\xe29880"),
];

/// Each function with each of its arguments as a text, `T`, that it does not know, or as something absurd.
const CALLS: &[&str] = &[
    "walarchive_wal_verify(T)",
    "walarchive_wal_verify('integrity', T)",
    "walarchive_wal_verify(VARIADIC ARRAY[T, NULL])",
    "walarchive_wal_verify(VARIADIC NULL)",
    "walarchive_backup_verify(T)",
    "walarchive_backup_verify('')",
    "walarchive_backup_verify(NULL)",
    "walarchive_backup_verify(repeat(T, 100000))",
    "walarchive_backup_mark(T)",
    "walarchive_backup_mark('../' || T)",
    "walarchive_backup_mark(NULL)",
    "walarchive_backup_mark('x', NULL)",
    "walarchive_backup_push(delta_from => T)",
    "walarchive_backup_push(delta_from => repeat(T, 100000))",
    "walarchive_backup_push(permanent => NULL)",
    "walarchive_backup_push(wait => NULL)",
    "walarchive_backup_push(full_backup => NULL)",
    "walarchive_backup_push(user_data => to_jsonb(repeat('x', 1000000)))",
    "walarchive_delete_retain(NULL)",
    "walarchive_delete_retain(1, T)",
    "walarchive_delete_retain(-1)",
    "walarchive_delete_retain(3, 'full', 'infinity')",
    "walarchive_delete_retain(3, 'full', '-infinity')",
    "walarchive_delete_retain(3, 'full', '294276-12-31 23:59:59')",
    "walarchive_delete_before('infinity')",
    "walarchive_delete_before('-infinity')",
    "walarchive_delete_before('294276-12-31')",
    "walarchive_delete_retain(1, confirm => NULL)",
    "walarchive_delete_before(T)",
    "walarchive_delete_before(NULL)",
    "walarchive_delete_before('2020-01-01', T)",
    "walarchive_delete_before('2020-01-01', confirm => NULL)",
    "walarchive_delete_target(T)",
    "walarchive_delete_target(NULL)",
    "walarchive_delete_target('x', T)",
    "walarchive_delete_target('x', confirm => NULL)",
    "walarchive_delete_everything(NULL)",
    "walarchive_delete_everything(confirm => NULL)",
    "walarchive_delete_garbage(T)",
    "walarchive_delete_garbage(confirm => NULL)",
    "walarchive_delete_outside_window(NULL)",
    "walarchive_delete_outside_window('1 day', NULL)",
    "walarchive_delete_outside_window('-1 day')",
    "walarchive_delete_gfs(NULL, 1, 1, 1)",
    "walarchive_delete_gfs(1, NULL, 1, 1)",
    "walarchive_delete_gfs(1, 1, NULL, 1)",
    "walarchive_delete_gfs(1, 1, 1, NULL)",
    "walarchive_delete_gfs(1, 1, 1, 1, NULL)",
    "walarchive_delete_gfs(-1, 0, 0, 0)",
];

/// An absurd request has an answer, too.
const ANSWERED: &[&str] = &[
    "walarchive_wal_verify(VARIADIC '{{integrity},{timeline}}')",
    "walarchive_wal_verify(VARIADIC '{}')",
    "walarchive_delete_retain(2147483647)",
    "walarchive_delete_retain(1, NULL)",
    "walarchive_delete_before('2020-01-01 00:00:00+00', NULL)",
    "walarchive_delete_garbage(NULL)",
    "walarchive_delete_gfs(2147483647, 2147483647, 2147483647, 2147483647)",
    "walarchive_delete_outside_window('178000000 years')",
    "walarchive_backup_list()",
    "walarchive_wal_show()",
    "walarchive_recovery_windows()",
    "walarchive_check()",
    "walarchive_archiver_status()",
    "walarchive_backup_progress()",
];

fn ask(cluster: &Cluster, database: &str, sql: &str) -> Output {
    ask_in(cluster, database, "auto", sql)
}

/// The statement, too, is of this encoding.
fn ask_in(cluster: &Cluster, database: &str, encoding: &str, sql: &str) -> Output {
    let mut psql = cluster.client("psql");
    if encoding != "auto" {
        psql.env("PGCLIENTENCODING", encoding);
    }
    psql.args(["-d", database, "-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose"]);
    run(psql.args(["-v", "ON_ERROR_STOP=1", "-c", sql]))
}

#[test]
fn no_argument_in_no_encoding_ends_in_more_than_a_message() {
    let site = Site::on_files();
    let builder = site.builder("primary").env("RUST_BACKTRACE", "1");
    let primary = builder.start();
    primary.psql("CREATE EXTENSION walarchive; CREATE ROLE watcher IN ROLE pg_monitor");
    let postmaster = primary.postmaster_pid();
    let mark = primary.log_mark();
    backup(&primary, "user_data => '{\"日本\": \"語\\u0007\"}'");
    for (encoding, bytes) in ENCODINGS {
        let database = format!("in_{}", encoding.to_lowercase());
        primary.psql(&format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        ask(&primary, &database, "CREATE EXTENSION walarchive").expect_success();
        let text = format!("convert_from('{bytes}', '{encoding}')");
        for call in CALLS {
            let call = call.replace('T', &text);
            let output = ask(
                &primary,
                &database,
                &format!("SET client_encoding = 'SQL_ASCII'; SELECT * FROM {call}"),
            );
            let told = &output.stderr;
            assert!(!output.success(), "{call} in {encoding}: {output:?}");
            assert!(
                told.contains("ERROR:  ") && !told.contains("ERROR:  XX000"),
                "{call}: {told}"
            );
            assert!(
                told.lines().count() <= 5 && !told.contains("panicked"),
                "{call}: {told}"
            );
            if call.contains("'full', '") {
                assert!(
                    told.contains("22023") && told.contains("argument \"after\""),
                    "{call}: {told}"
                );
            }
            if call.contains("NULL") && !call.contains("ARRAY") {
                assert!(
                    told.contains("22004") && told.contains("must not be null"),
                    "{call}: {told}"
                );
            }
        }
        for call in ANSWERED {
            ask(&primary, &database, &format!("SELECT * FROM {call}")).expect_success();
        }
        let user_data = format!("jsonb_build_object('k', {text})");
        match *encoding {
            // Such a text is of no encoding that could be told anybody else.
            "SQL_ASCII" => {
                let refused = ask(
                    &primary,
                    &database,
                    &format!("SELECT walarchive_backup_push(user_data => {user_data})"),
                );
                assert!(refused.stderr.contains("22021"), "{refused:?}");
            }
            _ => {
                let push = format!("SELECT walarchive_backup_push(user_data => {user_data})");
                let name = ask(&primary, &database, &push).expect_success();
                let same =
                    format!("SELECT user_data = {user_data} FROM walarchive_backups WHERE backup_name = '{name}'");
                assert_eq!(ask(&primary, &database, &same).expect_success(), "t", "{encoding}");
            }
        }
        // Text from another database is shown as well as this encoding can.
        let first = "SELECT user_data FROM walarchive_backups ORDER BY start_lsn LIMIT 1";
        let shown = ask(&primary, &database, &format!("SET client_encoding = 'UTF8'; {first}"));
        let expected = match *encoding {
            "LATIN1" => "{\"\\\\u{65e5}\\\\u{672c}\": \"\\\\u{8a9e}\\u0007\"}",
            _ => "{\"日本\": \"語\\u0007\"}",
        };
        // A client of UTF-8 gets nothing else from SQL_ASCII but the bytes.
        assert_eq!(shown.expect_success(), expected, "{encoding}");
    }
    assert_eq!(primary.postmaster_pid(), postmaster);
    let log = primary.log_since(mark);
    assert!(!log.contains("terminated by signal"), "{log}");
    for defect in ["panicked", "stack backtrace", "std::panicking", "/rustc/"] {
        assert!(!log.contains(defect), "{defect}: {log}");
    }
}

/// Errors, warnings and notices are text of the database's encoding; what that does not have is escaped.
#[test]
fn messages_are_in_the_encoding_of_the_database() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let objects = ["é", "語", "☃"];
    for letter in objects {
        let odd = site.object(&format!("wal_005/odd_{letter}_\t"));
        std::fs::write(odd, "").expect("could not write");
    }
    for (encoding, shown) in [
        ("LATIN1", ["é", "\\u{8a9e}", "\\u{2603}"]),
        ("EUC_JP", ["é", "語", "\\u{2603}"]),
        ("UTF8", objects),
        ("SQL_ASCII", objects),
    ] {
        let database = format!("in_{}", encoding.to_lowercase());
        primary.psql(&format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        ask(&primary, &database, "CREATE EXTENSION walarchive").expect_success();
        let ask = |sql: &str| ask_in(&primary, &database, "UTF8", sql);
        // Warnings of values that cannot be read.
        let mark = primary.log_mark();
        let told = ask("SELECT * FROM walarchive_wal_show()").stderr;
        for letter in shown {
            assert!(
                told.contains(&format!("odd_{letter}_")),
                "{letter} in {encoding}: {told}"
            );
        }
        // In the log they are as in the database; the test reads what is no UTF-8 as U+FFFD.
        let log = primary.log_since(mark);
        assert!(log.contains("WARNING") && log.contains(shown[2]), "{log}");
        // An error that repeats what it was given, also when somebody catches it.
        let letter = shown.iter().find(|letter| !letter.starts_with('\\')).expect("one");
        let refused = ask(&format!("SELECT walarchive_backup_verify('base_ab{letter}')"));
        assert!(
            refused.stderr.contains("ERROR:") && refused.stderr.contains(&format!("base_ab{letter}")),
            "{encoding}: {refused:?}"
        );
        let caught = ask(&format!(
            "DO $$ BEGIN PERFORM walarchive_backup_verify('base_ab{letter}');
             EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'caught %', SQLERRM; END $$;
             SELECT 1 / 0"
        ));
        assert!(
            caught.stderr.contains("caught ") && caught.stderr.contains(&format!("base_ab{letter}")),
            "{encoding}: {caught:?}"
        );
        assert!(caught.stderr.contains("division by zero"), "{encoding}: {caught:?}");
    }
    // A client that has no such letters hears of it in an error of PostgreSQL's, and the server lives.
    let foreign = ask_in(&primary, "in_utf8", "LATIN1", "SELECT * FROM walarchive_wal_show()");
    assert!(foreign.stderr.contains("22P05") || foreign.success(), "{foreign:?}");
    assert!(!primary.log().contains("terminated by signal"), "{}", primary.log());
}

#[test]
fn what_a_terminal_would_obey_is_shown() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let mark = primary.log_mark();
    let evil = "base_\x1b[2J\u{9b}31m\u{202e}";
    let shown = "base_\\x1b[2J\\u{9b}31m\\u{202e}";
    let sentinel = format!("basebackups_005/{evil}_backup_stop_sentinel.json");
    std::fs::write(site.object(&sentinel), "{").expect("could not write");
    std::fs::write(site.object(&format!("wal_005/{evil}")), "x").expect("could not write");
    let literal = "U&'base_\\001b[2J\\009b31m\\202e'";
    let mut told = String::new();
    for call in [
        "walarchive_backup_list()".to_owned(),
        "walarchive_backup_verify('LATEST')".to_owned(),
        format!("walarchive_backup_verify({literal})"),
        format!("walarchive_delete_target({literal})"),
        format!("walarchive_backup_mark({literal})"),
        format!("walarchive_backup_push(delta_from => {literal})"),
        "walarchive_delete_garbage()".to_owned(),
        "walarchive_delete_everything()".to_owned(),
        "walarchive_wal_verify()".to_owned(),
        "walarchive_check()".to_owned(),
    ] {
        let output = ask(&primary, "postgres", &format!("SELECT * FROM {call}"));
        told += &format!("{}\n{}\n", output.stdout, output.stderr);
    }
    let target = site.dir().join("restored");
    let target = target.to_string_lossy();
    for verb in [
        &["backup-list", "--detail"] as &[&str],
        &["backup-fetch", &target, evil],
        &["backup-verify", evil],
        &["backup-mark", evil],
        &["delete", "target", evil],
        &["delete", "garbage"],
        &["delete", "everything"],
        &["wal-show"],
        &["wal-verify", "integrity"],
        &["wal-fetch", evil, "/nowhere"],
        &["check"],
    ] {
        let output = run(&mut site.walarchive(verb));
        told += &format!("{}\n{}\n", output.stdout, output.stderr);
    }
    // psql repeats the statement's line, and the log the statement, as the client sent it.
    let log: String = primary
        .log_since(mark)
        .lines()
        .filter(|line| !line.contains("STATEMENT: "))
        .collect();
    for obeyed in ['\x1b', '\u{9b}', '\u{202e}'] {
        for line in told.lines().chain([log.as_str()]) {
            assert!(!line.contains(obeyed), "{line:?}");
        }
    }
    assert!(told.contains(shown), "{told}");
    assert!(log.contains(shown), "{log}");
}
