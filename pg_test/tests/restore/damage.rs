//! Damaged and hostile objects in a real backup, and what wal-fetch tells the server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, Output, PATIENCE, run};

/// An archive with a table and a backup in it; the cluster that wrote it is gone. Returns the backup's name too.
fn archive() -> (Site, String) {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let name = backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (1001)");
    archive_all(&primary);
    lose(&primary);
    (site, name)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()))
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
}

/// Half of it, and one bit of it turned over, in the middle and near its end.
fn damaged(intact: &[u8]) -> [Vec<u8>; 4] {
    let flipped = |at: usize| {
        let mut bytes = intact.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let (middle, end) = (intact.len() / 2, intact.len());
    [
        intact[..middle].to_vec(),
        intact[..end - 1].to_vec(),
        flipped(middle),
        flipped(end - 6),
    ]
}

fn fetch(site: &Site, file: &str, to: &Path) -> Output {
    run(&mut site.walarchive(&["wal-fetch", file, &to.to_string_lossy()]))
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("could not list").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The last segment of the archive.
fn last_segment(site: &Site) -> String {
    let keys = site.objects("wal_005");
    let segments = keys
        .iter()
        .filter_map(|key| key.strip_prefix("wal_005/")?.strip_suffix(".zst"));
    segments
        .filter(|name| name.len() == 24)
        .max()
        .expect("no segment")
        .to_owned()
}

#[test]
fn a_damaged_segment_is_no_missing_one() {
    let (site, _) = archive();
    let segment = last_segment(&site);
    let object = site.object(&format!("wal_005/{segment}.zst"));
    let place = site.dir().subdir("place");
    let to = place.join("RECOVERYXLOG");
    assert_eq!(fetch(&site, &segment, &to).code, Some(0));
    assert_eq!(read(&to).len(), 16 << 20);
    fs::remove_file(&to).expect("could not remove");

    let intact = read(&object);
    for content in damaged(&intact)
        .iter()
        .chain([&Vec::new(), &b"not zstd at all".to_vec()])
    {
        write(&object, content);
        let output = fetch(&site, &segment, &to);
        assert!(output.code > Some(125), "{output:?}");
        assert!(
            output.stderr.contains(&segment) && output.stderr.contains("damaged"),
            "{output:?}"
        );
        assert_eq!(file_names(&place), Vec::<String>::new());
    }

    // Recovery stops there, and does not end: a server that came up would have lost a row.
    write(&object, &damaged(&intact)[2]);
    let target = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach_stopped(&target);
    restored.spawn_server();
    restored.wait_stopped(PATIENCE);
    assert!(restored.log().contains("is damaged"), "{}", restored.log());
    assert!(target.join("recovery.signal").exists());
    write(&object, &intact);
    restored.start_again();
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT max(a) FROM t"), "1001");
}

#[test]
fn a_segment_of_another_name_or_cluster_is_damaged() {
    let (site, _) = archive();
    let segment = last_segment(&site);
    let place = site.dir().subdir("place");
    // Somebody copied an object to another name.
    let other = "000000010000000000000077";
    fs::copy(
        site.object(&format!("wal_005/{segment}.zst")),
        site.object(&format!("wal_005/{other}.zst")),
    )
    .expect("copy");
    let output = fetch(&site, other, &place.join("x"));
    assert!(output.code > Some(125), "{output:?}");
    // The same segment, for a server that is not its cluster.
    let stranger = Cluster::builder(site.dir(), "stranger").create();
    let to = stranger.datadir().join("pg_wal/RECOVERYXLOG");
    let output = fetch(&site, &segment, &to);
    assert!(
        output.code > Some(125) && output.stderr.contains("system identifier"),
        "{output:?}"
    );
    assert!(file_names(&place).is_empty() && !to.exists());
}

#[test]
fn exit_codes_of_wal_fetch_tell_missing_from_unreachable() {
    let (site, _) = archive();
    let segment = last_segment(&site);
    let target = site.restore("restored", "LATEST", &[]);
    let to = target.join("pg_wal/RECOVERYXLOG");
    let code = |file: &str| fetch(&site, file, &to).code;
    assert_eq!(code("0000000100000000000000AA"), Some(74));
    assert_eq!(code("00000009.history"), Some(74));
    assert_eq!(code(&segment), Some(0));
    assert!(code("nonsense") > Some(125));
    fs::remove_file(&to).expect("could not remove");

    // The settings of the data directory tell where the archive is; the server calls it there.
    let mut plain = site.pg().program("walarchive");
    plain
        .current_dir(&target)
        .args(["wal-fetch", &segment, "pg_wal/RECOVERYXLOG"]);
    assert_eq!(run(&mut plain).code, Some(0));

    // The store is gone: a restore stops, a standby goes on trying.
    let (store, away) = (site.dir().join("store"), site.dir().join("away"));
    fs::rename(&store, &away).expect("could not rename");
    let output = fetch(&site, &segment, &to);
    assert!(output.code > Some(125) && output.stderr.contains("HINT:"), "{output:?}");
    write(&target.join("standby.signal"), b"");
    assert_eq!(code(&segment), Some(1));
    fs::rename(&away, &store).expect("could not rename");
    assert_eq!(code(&segment), Some(0));
    // Damage is damage for a standby, too.
    let object = site.object(&format!("wal_005/{segment}.zst"));
    write(&object, &damaged(&read(&object))[0]);
    assert!(code(&segment) > Some(125));
}

fn tar_folder(site: &Site, name: &str) -> PathBuf {
    site.object(&format!("basebackups_005/{name}/tar_partitions"))
}

#[test]
fn a_damaged_tar_is_no_backup() {
    let (site, name) = archive();
    for tar in ["part_001.tar.zst", "pg_control.tar.zst", "backup_label.tar.zst"] {
        let object = tar_folder(&site, &name).join(tar);
        let intact = read(&object);
        for content in damaged(&intact) {
            write(&object, &content);
            let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
            assert!(output.code > Some(125), "{output:?}");
            assert!(output.stderr.contains(tar), "{output:?}");
            assert!(!target.join("global/pg_control").exists(), "a server could start on it");
            // Some damage is found before anything is written.
            if target.exists() {
                fs::remove_dir_all(&target).expect("could not remove");
            }
        }
        fs::remove_file(&object).expect("could not remove");
        let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
        // Of one that is not there nobody knows how it would be compressed.
        let stem = tar.trim_end_matches(".tar.zst");
        assert!(output.code > Some(125) && output.stderr.contains(stem), "{output:?}");
        assert!(!target.join("global/pg_control").exists());
        let _ = fs::remove_dir_all(&target);
        write(&object, &intact);
    }
    site.restore("restored", "LATEST", &[]);
}

/// One member of a tar, with a header as POSIX has it.
fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    for (at, octal) in [(100, "0000600"), (108, "0000000"), (116, "0000000")] {
        put(at, octal);
    }
    put(124, &format!("{:011o}\x00{:011o}\x00        ", content.len(), 0));
    put(157, link);
    put(257, "ustar\x00\x30\x30");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\x00 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn zstd(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("zstd");
    command
        .args(["-q", "-c"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("could not run zstd");
    let mut pipe = child.stdin.take().expect("no pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || pipe.write_all(&input).expect("could not write to zstd"));
    let output = child.wait_with_output().expect("no output of zstd");
    writer.join().expect("the writer panicked");
    assert!(output.status.success());
    output.stdout
}

#[test]
fn hostile_members_of_a_tar_are_refused() {
    let (site, name) = archive();
    let object = tar_folder(&site, &name).join("part_001.tar.zst");
    let intact = read(&object);
    let tar = zstd(&["-d"], &intact);
    let outside = site.dir().subdir("outside");
    let escaped = format!("{}/escaped", outside.display());
    let through = [
        member("/base/way", b'2', &outside.to_string_lossy(), b""),
        member("/base/way/escaped", b'0', "", b"hostile"),
    ];
    let cases = [
        (
            member("/../outside/escaped", b'0', "", b"hostile"),
            "/../outside/escaped",
        ),
        (
            member("base/../../outside/escaped", b'0', "", b"hostile"),
            "base/../../outside/escaped",
        ),
        (member("/base/passwd", b'1', "/etc/passwd", b""), "/base/passwd"),
    ];
    for (planted, says) in cases {
        write(&object, &zstd(&["-1"], &[planted, tar.clone()].concat()));
        let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
        assert!(output.code > Some(125), "{says}: {output:?}");
        assert!(output.stderr.contains(&format!("\"{says}\" is refused")), "{output:?}");
        assert!(!target.join("global/pg_control").exists());
        assert!(file_names(&outside).is_empty(), "{says} got out");
        fs::remove_dir_all(&target).expect("could not remove");
    }

    // A member that is neither a file nor a directory is left out, and so are those that would be reached through it.
    let link = format!("was a symbolic link to \"{}\"; it was left out", outside.display());
    let cases = [
        (through.concat(), "base/way", &link[..]),
        (
            member("/pg_tblspc/77", b'2', &outside.to_string_lossy(), b""),
            "pg_tblspc/77",
            &link,
        ),
        (
            member("/base/device", b'3', "", b""),
            "base/device",
            "was a device; it was left out",
        ),
        // Not hostile as a path, but in no list of the backup.
        (member("/base/way/escaped", b'0', "", b"hostile"), "base/way", ""),
    ];
    for (planted, path, says) in cases {
        write(&object, &zstd(&["-1"], &[planted, tar.clone()].concat()));
        let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
        assert!(output.success(), "{path}: {output:?}");
        let warning = format!("\"{path}\" {says}");
        assert!(
            says.is_empty() || output.stderr.contains(&warning),
            "{path}: {output:?}"
        );
        assert!(target.join(path).symlink_metadata().is_err(), "{path}: {output:?}");
        assert!(target.join("global/pg_control").exists());
        assert!(file_names(&outside).is_empty(), "{path} got out");
        fs::remove_dir_all(&target).expect("could not remove");
    }

    // An absolute path is relative to the target. The lists of files would rule this one out.
    fs::remove_file(site.object(&format!("basebackups_005/{name}/backup_manifest"))).expect("no manifest");
    let list = site.object(&format!("basebackups_005/{name}/files_metadata.json"));
    let files = String::from_utf8(read(&list)).expect("not a text");
    let entry = format!(
        "\"Files\":{{\"{escaped}\":{{\"IsIncremented\":false,\"IsSkipped\":false,\
                         \"MTime\":\"2026-11-20T10:00:00Z\",\"UpdatesCount\":0}},"
    );
    assert!(files.contains("\"Files\":{"), "{files}");
    write(&list, files.replacen("\"Files\":{", &entry, 1).as_bytes());
    write(
        &object,
        &zstd(&["-1"], &[member(&escaped, b'0', "", b"tame"), tar].concat()),
    );
    let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
    output.expect_success();
    assert_eq!(read(&target.join(escaped.trim_start_matches('/'))), b"tame");
    assert!(file_names(&outside).is_empty());
}
