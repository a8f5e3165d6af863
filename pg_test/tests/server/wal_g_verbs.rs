//! The command lines of WAL-G's manual, with walarchive in WAL-G's place: they do the same, and print the same.

use walarchive_pg_test::verbs;

#[test]
fn every_command_line_of_wal_g_works_and_prints_what_wal_g_prints() {
    verbs::check_verbs();
}
