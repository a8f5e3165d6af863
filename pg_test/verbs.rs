//! The command lines of WAL-G's manual, with walarchive in WAL-G's place, or with WAL-G.

use std::path::{Path, PathBuf};

use walarchive_testkit::{Pg, TestDir, run};

/// The binary that is tested in place of walarchive, such as WAL-G itself.
const BINARY: &str = "WALG_BINARY";

/// Runs `wal-g/verbs.sh` with a server of the PostgreSQL that is tested. It ends well, and prints what WAL-G prints.
#[track_caller]
pub fn check_verbs() {
    let (dir, pg) = (TestDir::new(), Pg::find());
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("wal-g");
    // A place that the server's user can read.
    let script = dir.join("verbs.sh");
    std::fs::copy(here.join("verbs.sh"), &script).expect("copied");
    let binary = std::env::var_os(BINARY).map_or_else(|| link_named_wal_g(&dir, &pg), PathBuf::from);
    let mut bash = pg.program("/bin/bash");
    bash.arg(&script).arg(dir.join("work"));
    bash.env(BINARY, &binary).env("PG_BIN", pg.bindir());
    let output = run(&mut bash);
    let log = || std::fs::read_to_string(dir.join("work/log")).unwrap_or_default();
    assert!(
        output.success(),
        "{}\n--- the log:\n{}\n--- stderr:\n{}",
        output.stdout,
        log(),
        output.stderr
    );
    let expected = std::fs::read_to_string(here.join("verbs.out")).expect("read");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&output.stdout), lines(&expected));
}

/// As whoever moves over makes it.
fn link_named_wal_g(dir: &TestDir, pg: &Pg) -> PathBuf {
    let link = dir.join("wal-g");
    let binary = pg.path_of("walarchive");
    std::os::unix::fs::symlink(&binary, &link).unwrap_or_else(|e| panic!("no link to {}: {e}", binary.display()));
    link
}
