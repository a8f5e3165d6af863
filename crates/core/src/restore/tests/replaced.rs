//! Another user puts something else in the place of a file while the restore goes on.

use std::os::unix::fs::MetadataExt;

use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid, mkfifo};

use super::*;
use crate::restore::directory::directories::Directories;
use crate::restore::directory::tree::Tree;
use crate::restore::directory::walk::walk as walk_entries;
use crate::stored::member::MemberPath;

/// A tree with a file that is parked, and the path of that.
fn parked(target: &Path) -> (Tree, MemberPath, PathBuf) {
    let tree = Tree::open(Directories::default(), target, &[], None).expect("open");
    let path = MemberPath::parse(b"base/1").expect("a path");
    tree.create_file(&path).expect("created").park();
    let files = walk(target);
    assert_eq!(files.len(), 1, "{files:?}");
    (tree, path, files[0].clone())
}

#[test]
fn what_was_parked_is_what_is_opened() {
    let place = tempfile::tempdir().expect("a directory");
    let (tree, path, temporary) = parked(&place.path().join("data"));
    drop(tree.reopen_file(&path).expect("it is ours"));
    let outside = place.path().join("outside");
    std::fs::write(&outside, "precious").expect("written");
    std::fs::hard_link(&outside, &temporary).expect("linked");
    let refused = tree.reopen_file(&path).err().expect("it has another name");
    assert!(refused.to_string().contains("base/1"), "{refused}");
    std::fs::remove_file(&temporary).expect("removed");
    std::os::unix::fs::symlink(&outside, &temporary).expect("linked");
    assert!(tree.reopen_file(&path).is_err(), "a symbolic link");
    std::fs::remove_file(&temporary).expect("removed");
    mkfifo(&temporary, Mode::S_IRWXU).expect("made");
    assert!(tree.reopen_file(&path).is_err(), "nobody waits for a reader");
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&temporary);
    assert!(tree.reopen_file(&path).is_err(), "nor writes to one");
    assert_eq!(std::fs::read(&outside).expect("read"), b"precious");
}

#[test]
fn no_file_that_has_another_name_is_given_away() {
    let place = tempfile::tempdir().expect("a directory");
    let target = place.path().join("data");
    let (tree, ..) = parked(&target);
    std::os::unix::fs::symlink("/nowhere", target.join("link")).expect("linked");
    let owner = match geteuid().is_root() {
        true => Owner {
            uid: 12_345,
            gid: 23_456,
        },
        // To oneself everybody may.
        false => Owner {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        },
    };
    let give = || {
        walk_entries(tree.target(), tree.tablespaces(), None, 15, &mut |entry| {
            entry.give(owner)
        })
    };
    give().expect("given");
    for path in walk(&target).into_iter().chain([target.join("base")]) {
        let meta = path.symlink_metadata().expect("there");
        assert_eq!((meta.uid(), meta.gid()), (owner.uid, owner.gid), "{path:?}");
    }
    let outside = place.path().join("outside");
    std::fs::write(&outside, "").expect("written");
    let before = outside.metadata().expect("there");
    std::fs::hard_link(&outside, target.join("linked")).expect("linked");
    let refused = give().expect_err("it has another name");
    assert!(refused.to_string().contains("set the owner of"), "{refused}");
    let after = outside.metadata().expect("there");
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
}
