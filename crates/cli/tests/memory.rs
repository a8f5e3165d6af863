//! The memory that the binary takes for a repository's descriptions of its backups, whoever wrote them.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const NAME: &str = "base_000000010000000000000002";

/// More than any of these verbs needs, in kB. Parsed, the texts here take twenty times as much as they have.
const BOUND: u64 = 160 << 10;

/// Enough to tell the two apart, in bytes.
const LONG: usize = 64 << 20;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().expect("a directory"));
        std::fs::create_dir_all(place.path(NAME)).expect("made");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("store/basebackups_005").join(name)
    }

    /// An object with a value of so many empty arrays under the key.
    fn write(&self, path: &Path, before: &str, key: &str) {
        let mut file = BufWriter::new(std::fs::File::create(path).expect("created"));
        write!(file, "{{{before},\"{key}\":[").expect("written");
        let many = b"[],".repeat(1 << 16);
        for _ in 0..LONG / many.len() {
            file.write_all(&many).expect("written");
        }
        write!(file, "[]]}}").expect("written");
        file.flush().expect("written");
    }

    /// The verb's output, and the most memory that it had, in kB.
    fn run(&self, args: &[&str]) -> (String, u64) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_walarchive"))
            .args(args)
            .arg("--storage")
            .arg(format!("file://{}", self.0.path().join("store").display()))
            .current_dir(self.0.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while child.try_wait().expect("asked").is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let figure = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
            peak = peak.max(figure.unwrap_or(0));
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().expect("ended");
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), peak)
    }

    /// A verb that is content with the bound, and says this.
    fn expect(&self, args: &[&str], says: &str) {
        let (said, peak) = self.run(args);
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(peak > 0 && peak < BOUND, "{args:?} had {peak} kB");
    }
}

#[test]
fn no_description_of_a_backup_takes_more_memory_than_a_good_one() {
    let place = Place::new();
    let sentinel = place.path(&format!("{NAME}_backup_stop_sentinel.json"));
    let metadata = place.path(NAME).join("metadata.json");
    let fields = r#""LSN":33554472,"FinishLSN":33554744,"PgVersion":150018"#;
    // A value that is no part of any sentinel, under a known key and under an unknown one.
    for key in ["UserData", "Other"] {
        place.write(&sentinel, fields, key);
        place.expect(&["backup-list"], "is damaged");
        place.expect(&["backup-list", "--long", "--json"], "is damaged");
        place.expect(&["backup-list", "--json", "--detail"], "is damaged");
        place.expect(&["backup-fetch", "data", NAME, "--dry-run"], "is damaged");
        place.expect(&["backup-mark", NAME], "cannot be read");
        place.expect(&["delete", "retain", "1"], "");
    }
    // The list of files that WAL-G before 2.0 kept there.
    place.write(&sentinel, fields, "TarFileSets");
    place.expect(&["backup-list", "--detail"], "0/2000028");
    // A good sentinel beside metadata that is not.
    std::fs::write(&sentinel, format!("{{{fields}}}")).expect("written");
    place.write(&metadata, r#""start_lsn":33554472,"finish_lsn":33554744"#, "user_data");
    place.expect(&["backup-list", "--detail"], "0/2000028");
}

/// A list of files is read up to a bound, and refused there.
#[test]
fn a_list_of_files_without_end_is_refused_in_bounded_memory() {
    const TOO_MANY: usize = (1 << 24) + 10;
    /// In kB. At the bound backup-fetch was measured at 583 MB, and backup-verify at 833 MB.
    const BOUND: u64 = 700 << 10;
    let place = Place::new();
    let sentinel =
        r#"{"LSN":33554472,"FinishLSN":33554744,"PgVersion":150018,"Spec":{"base_prefix":"/d","tablespaces":[]}}"#;
    std::fs::write(place.path(&format!("{NAME}_backup_stop_sentinel.json")), sentinel).expect("written");
    let tars = place.path(NAME).join("tar_partitions");
    std::fs::create_dir(&tars).expect("made");
    for tar in ["part_001.tar.zst", "pg_control.tar.zst", "backup_label.tar.zst"] {
        std::fs::write(tars.join(tar), "x").expect("written");
    }
    let list = std::fs::File::create(place.path(NAME).join("files_metadata.json")).expect("created");
    let mut list = BufWriter::with_capacity(1 << 20, list);
    write!(list, "{{\"Files\":{{\"/base/5/0\":{{}}").expect("written");
    for number in 1..TOO_MANY {
        write!(list, ",\"/base/5/{number}\":{{}}").expect("written");
    }
    write!(list, "}}}}").expect("written");
    list.flush().expect("written");
    let (said, peak) = place.run(&["backup-fetch", "data", NAME, "--dry-run", "--allow-gap"]);
    assert!(said.contains("it lists more than 16777216 files"), "{said}");
    assert!(peak > (400 << 10) && peak < BOUND, "{peak} kB: {said}");
}

/// A million tables, and one with a million partitions: what does not choose among them passes over them.
#[test]
fn the_names_of_a_million_tables_are_read_in_bounded_memory() {
    const MANY: u32 = 1_000_000;
    let place = Place::new();
    let sentinel =
        r#"{"LSN":33554472,"FinishLSN":33554744,"PgVersion":150018,"Spec":{"base_prefix":"/d","tablespaces":[]}}"#;
    std::fs::write(place.path(&format!("{NAME}_backup_stop_sentinel.json")), sentinel).expect("written");
    let tars = place.path(NAME).join("tar_partitions");
    std::fs::create_dir(&tars).expect("made");
    for tar in ["part_001.tar.zst", "pg_control.tar.zst", "backup_label.tar.zst"] {
        std::fs::write(tars.join(tar), "x").expect("written");
    }
    let names = std::fs::File::create(place.path(NAME).join("files_metadata.json")).expect("created");
    let mut names = BufWriter::with_capacity(1 << 20, names);
    let start =
        r#"{"Files":{"/base/16384/16385":{}},"TarFileSets":{},"DatabasesByNames":{"shop":{"oid":16384,"tables_new":{"#;
    write!(
        names,
        r#"{start}"public.parts":{{"oid":16385,"relfilenode":0,"subtables":{{"public.p":{{}}"#
    )
    .expect("written");
    for number in 0..MANY {
        write!(
            names,
            r#","public.part_{number}":{{"oid":{number},"relfilenode":{number}}}"#
        )
        .expect("written");
    }
    write!(names, "}}}}").expect("written");
    for number in 20_000..MANY {
        write!(
            names,
            r#","public.table_{number}":{{"oid":{number},"relfilenode":{number}}}"#
        )
        .expect("written");
    }
    write!(names, "}}}}}}}}").expect("written");
    names.flush().expect("written");
    let fetch = ["backup-fetch", "data", NAME, "--dry-run", "--allow-gap"];
    place.expect(&fetch, "");
    place.expect(&[&fetch[..], &["--restore-only", "shop"]].concat(), "16384");
    place.expect(&[&fetch[..], &["--restore-only", "shop/table_20001"]].concat(), "16384");
    place.expect(
        &[&fetch[..], &["--restore-only", "shop/table_1"]].concat(),
        "knows no table",
    );
}
