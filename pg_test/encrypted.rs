//! Servers that encrypt, and what others make of their objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_testkit::sealed::{GpgKey, by_pynacl};
use walarchive_testkit::{Builder, Cluster, Output, PATIENCE, StopMode, run};

use crate::site::Site;

/// The first bytes of a frame of zstd.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A key of libsodium's, told from others by this number.
pub fn sodium_key(number: u8) -> [u8; 32] {
    std::array::from_fn(|at| number.wrapping_mul(7).wrapping_add(at as u8))
}

/// A line of a key file.
pub fn hex(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file with such keys, which the servers' user can read, and returns its path.
#[track_caller]
pub fn sodium_file(site: &Site, name: &str, numbers: &[u8]) -> String {
    let lines: String = numbers.iter().map(|number| hex(sodium_key(*number)) + "\n").collect();
    text(&site.dir().secret_file(name, lines.as_bytes()))
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A cluster that archives into the site's store and encrypts by this method, with small segments.
pub fn encrypting(site: &Site, name: &str, method: &str, key_file: &str) -> Builder {
    site.builder(name)
        .initdb_arg("--wal-segsize=1")
        .setting("wal_keep_size", "1GB")
        .setting("walarchive.delta_max_steps", "6")
        .setting("walarchive.encryption", method)
        .setting("walarchive.encryption_key_file", key_file)
}

/// Such a cluster, running, with the extension in its database and a table of rows.
#[track_caller]
pub fn primary(site: &Site, method: &str, key_file: &str) -> Cluster {
    let cluster = encrypting(site, "primary", method, key_file).start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int);");
    cluster
}

/// The keys of all objects of the kinds that are encrypted: archived WAL files and the tars of backups.
pub fn sealed_objects(site: &Site) -> Vec<String> {
    let mut keys = site.objects("wal_005");
    let backups = site.objects("basebackups_005").into_iter();
    keys.extend(backups.filter(|key| key.contains("/tar_partitions/")));
    keys
}

/// Those of them that are plain text.
pub fn plain_objects(site: &Site) -> Vec<String> {
    let is_plain = |key: &String| fs::read(site.object(key)).is_ok_and(|bytes| bytes.starts_with(&ZSTD));
    sealed_objects(site).into_iter().filter(is_plain).collect()
}

/// Who decrypts, and with what.
pub enum Independent<'a> {
    /// PyNaCl, with the libsodium key of this number.
    PyNaCl(u8),
    /// gpg.
    Gpg(&'a GpgKey),
}

impl Independent<'_> {
    /// The compressed content of an object.
    #[track_caller]
    pub fn decrypt(&self, file: &Path) -> Vec<u8> {
        match self {
            Independent::PyNaCl(number) => by_pynacl(file, sodium_key(*number)),
            Independent::Gpg(key) => key.decrypt(file),
        }
    }
}

/// Has all encrypted objects decrypted by a program of another project: the WAL that the server still has must be the same, and
/// each tar what our reader makes of it, which `zstd` and `tar` then list. Returns how many objects there were.
#[track_caller]
pub fn compare_with(site: &Site, cluster: &Cluster, program: &Independent<'_>, key_args: &[&str]) -> usize {
    assert_eq!(plain_objects(site), [""; 0]);
    let objects = sealed_objects(site);
    let (mut segments, mut members) = (0, Vec::new());
    for key in &objects {
        let decrypted = program.decrypt(&site.object(key));
        assert!(decrypted.starts_with(&ZSTD), "{key}");
        let file = site.dir().join("decrypted.zst");
        fs::write(&file, &decrypted).expect("written");
        let plain = output(Command::new("zstd").args(["-dc", "-q"]).arg(&file));
        let ours = output(
            site.walarchive(&["st", "cat", "--decrypt", "--decompress", key])
                .args(key_args),
        );
        assert!(plain == ours, "{key}: {} and {} bytes", plain.len(), ours.len());
        let name = key.trim_start_matches("wal_005/").trim_end_matches(".zst");
        let local = cluster.wal_directory().join(name);
        if key.starts_with("wal_005/") && local.exists() {
            assert!(fs::read(&local).expect("read") == plain, "{key} is not that of pg_wal");
            segments += usize::from(name.len() == 24);
        }
        if key.contains("/tar_partitions/") {
            let tar = site.dir().join("decrypted.tar");
            fs::write(&tar, &plain).expect("written");
            members.push(run(Command::new("tar").args(["-tPf"]).arg(&tar)).expect_success());
        }
    }
    let members = members.join("\n");
    assert!(segments > 0, "no segment was compared");
    for member in ["/PG_VERSION", "/global/pg_control", "backup_label"] {
        assert!(members.lines().any(|line| line == member), "{member} in {members}");
    }
    objects.len()
}

#[track_caller]
fn output(command: &mut Command) -> Vec<u8> {
    let ended = command.output().expect("run");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

/// Nothing of the repository can be used without the right key: neither a restore nor `wal-fetch` writes anything, both say
/// `message`, and recovery would stop.
#[track_caller]
pub fn assert_unreadable(site: &Site, segment: &str, key_args: &[&str], message: &str) {
    let (target, fetched) = site.backup_fetch("unreadable", "LATEST", key_args);
    assert!(
        !fetched.success() && fetched.stderr.contains(message) && fetched.stderr.contains("HINT:  "),
        "{fetched:?}"
    );
    let left = fs::read_dir(&target).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{}", target.display());
    let wal: PathBuf = site.dir().subdir("wal").join("RECOVERYXLOG");
    let fetched = run(site.walarchive(&["wal-fetch", segment, &text(&wal)]).args(key_args));
    assert!(
        fetched.code.is_some_and(|code| code > 125) && fetched.stderr.contains(message),
        "{fetched:?}"
    );
    assert_eq!(fs::read_dir(site.dir().join("wal")).expect("listed").count(), 0);
}

/// The flags of a verb that writes.
pub fn writing(key: &str) -> [&str; 4] {
    ["--encryption", "libsodium", "--encryption-key-file", key]
}

/// The binary without the key.
#[track_caller]
pub fn without_key(site: &Site, args: &[&str]) -> Output {
    run(&mut site.walarchive(args))
}

/// It could not be done for lack of a key, which is no damage.
#[track_caller]
pub fn assert_lacks_key(output: &Output, code: i32) {
    assert_eq!(output.code, Some(code), "{output:?}");
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(
        said.contains("is encrypted") && said.contains("HINT:  ") && said.contains("key"),
        "{output:?}"
    );
    assert!(!said.contains("is damaged"), "{output:?}");
}

/// Nothing but an encrypted object is there, of the kinds that are encrypted, and libsodium itself decrypts each with that key.
#[track_caller]
pub fn assert_all_sealed(site: &Site, number: u8) {
    assert_eq!(plain_objects(site), [""; 0]);
    let objects = sealed_objects(site);
    assert!(objects.len() > 1, "{objects:?}");
    for key in objects {
        let plain = Independent::PyNaCl(number).decrypt(&site.object(&key));
        assert!(plain.starts_with(&ZSTD), "{key}");
    }
}

/// The rows of the table `t` in a backup that is restored into a directory of this name.
#[track_caller]
pub fn rows_after_restore(site: &Site, name: &str, directory: &str, args: &[&str]) -> String {
    let target = site.restore(directory, name, args);
    let restored = site.restored(directory).attach(&target);
    restored.wait_promoted(PATIENCE);
    let rows = restored.psql("SELECT count(*), sum(a) FROM t");
    restored.stop(StopMode::Immediate);
    rows
}
