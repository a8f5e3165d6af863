//! Commits that wait for a store in which all is encrypted, while the server's configuration and its keys change.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use walarchive_pg_test::archiving::{status, wait_message};
use walarchive_pg_test::encrypted::{Independent, sodium_file, text};
use walarchive_pg_test::site::{Site, backup, lose};
use walarchive_pg_test::synchronous::{builder, commit, has, start};
use walarchive_testkit::{Builder, Cluster, PATIENCE, Session};

/// A server that gets its keys from a program, which notes that it was run.
fn encrypting(site: &Site) -> (Builder, String) {
    let key = sodium_file(site, "key", &[1]);
    let calls = text(&site.dir().subdir("calls"));
    let script = format!("echo >> {calls}/file\nexec cat {key}\n");
    let script = text(&site.dir().secret_file("print-key", script.as_bytes()));
    let builder = builder(site, "primary")
        .setting("walarchive.encryption", "libsodium")
        .setting("walarchive.encryption_key_command", &format!("/bin/sh {script}"));
    (builder, script)
}

/// How often the keys were asked for.
fn calls(site: &Site) -> usize {
    let file = site.dir().join("calls/file");
    fs::read(file).map_or(0, |lines| lines.len())
}

/// The standby's connection, and the last epoch of the tail: both begin anew with another archive.
fn course(site: &Site, cluster: &Cluster) -> (String, Option<String>) {
    let sender = cluster.psql("SELECT pid FROM pg_stat_replication WHERE application_name = 'walarchive'");
    (sender, site.objects("walarchive_005/tail/epoch").pop())
}

#[test]
fn only_other_keys_begin_anew() {
    let site = Site::on_s3();
    let (builder, _) = encrypting(&site);
    let cluster = start(builder);
    let mut session = Session::begin(&cluster);
    commit(&mut session, 0);
    let before = course(&site, &cluster);
    for id in 1..=3 {
        let asked = calls(&site);
        cluster.reload();
        cluster.wait_until("the keys are read again", PATIENCE, || calls(&site) > asked);
        let lsn = commit(&mut session, id);
        assert!(has(&site, 1, lsn));
    }
    assert_eq!(course(&site, &cluster), before, "nothing begins anew");

    let mark = cluster.log_mark();
    sodium_file(&site, "key", &[2, 1]);
    cluster.reload();
    wait_message(
        &cluster,
        mark,
        &["LOG", "encrypted with another key from now on"],
        PATIENCE,
    );
    cluster.wait_until("an epoch under the new key begins", PATIENCE, || {
        let (sender, epoch) = course(&site, &cluster);
        !sender.is_empty() && sender != before.0 && epoch != before.1
    });
    let lsn = commit(&mut session, 4);
    assert!(has(&site, 1, lsn));
    let chunks = site.objects("walarchive_005/tail");
    let last = chunks.iter().rfind(|key| key.ends_with(".zst")).expect("a chunk");
    assert!(
        Independent::PyNaCl(2).decrypt(&site.object(last)).starts_with(&[0x28]),
        "{last}"
    );

    // A vault that does not answer at a reload: what was there goes on, and is said to.
    let before = course(&site, &cluster);
    fs::rename(site.dir().join("key"), site.dir().join("away")).expect("renamed");
    let mark = cluster.log_mark();
    cluster.reload();
    let said = wait_message(
        &cluster,
        mark,
        &["WARNING", "could not read the encryption keys again"],
        PATIENCE,
    );
    assert!(said.contains("exit code 1") && said.contains("HINT:  "), "{said}");
    let lsn = commit(&mut session, 5);
    assert!(has(&site, 1, lsn));
    assert_eq!(course(&site, &cluster), before);
    // No further reload is needed.
    sodium_file(&site, "key", &[3, 2, 1]);
    wait_message(
        &cluster,
        mark,
        &["LOG", "encrypted with another key from now on"],
        PATIENCE,
    );
    let lsn = commit(&mut session, 6);
    assert!(has(&site, 1, lsn));
    assert_eq!(status(&cluster, "synchronous_error"), "");
}

/// With reloads, and another key, in the midst of it.
#[test]
fn nothing_that_has_returned_is_lost() {
    const CLIENTS: usize = 4;
    let site = Site::on_s3();
    let (builder, script) = encrypting(&site);
    let cluster = start(builder);
    backup(&cluster, "");
    let is_over = AtomicBool::new(false);
    let returned: Vec<usize> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (cluster, is_over) = (&cluster, &is_over);
                scope.spawn(move || {
                    let mut session = Session::begin(cluster);
                    let mut returned = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        commit(&mut session, 1_000_000 * client + returned);
                        returned += 1;
                    }
                    returned
                })
            })
            .collect();
        for keys in [&[1][..], &[1], &[2, 1], &[2, 1]] {
            sodium_file(&site, "key", keys);
            let asked = calls(&site);
            cluster.reload();
            cluster.wait_until("the keys are read again", PATIENCE, || calls(&site) > asked);
            cluster.switch_wal();
        }
        let mark = cluster.psql("SELECT pg_current_wal_flush_lsn()");
        cluster.wait_until("work goes on under the new key", PATIENCE, || {
            status(&cluster, &format!("synchronous_lsn > '{mark}'")) == "t"
        });
        is_over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .collect()
    });
    assert!(returned.iter().all(|rows| *rows > 4), "{returned:?}");
    lose(&cluster);
    let target = site.restore(
        "restored",
        "LATEST",
        &["--encryption-key-command", &format!("/bin/sh {script}")],
    );
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    for (client, rows) in returned.into_iter().enumerate() {
        let (from, to) = (1_000_000 * client, 1_000_000 * client + rows);
        let found = restored.psql(&format!("SELECT count(*) FROM t WHERE id >= {from} AND id < {to}"));
        assert_eq!(found, rows.to_string(), "client {client}");
    }
}
