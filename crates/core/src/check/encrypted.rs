//! The rows about encryption.

use walarchive_storage::Store;
use walarchive_storage::crypt::Method::{self, Libsodium, OpenPgp};

use super::*;
use crate::repository::cluster;
use crate::repository::encryption as mark;
use crate::repository::encryption::fixture::{Place, identity};
use crate::repository::layout;

type Keys<'a> = (Option<Method>, &'a [&'a str]);

/// Name, status, and what the detail says.
type Row<'a> = (&'a str, CheckStatus, &'a str);

/// The two rows of a machine that may only read, if they are there.
async fn rows(store: &Store) -> Vec<(&'static str, CheckStatus, String)> {
    rows_of(store, None).await
}

async fn rows_of(store: &Store, identity: Option<&ClusterIdentity>) -> Vec<(&'static str, CheckStatus, String)> {
    let checks = check_store(store, identity).await;
    assert_eq!(
        store.list(&layout::CHECK_FOLDER).await.expect("listed"),
        [],
        "something is left behind"
    );
    let rows = checks.into_iter();
    let rows = rows.filter(|check| ["encryption", "encrypt"].contains(&check.name));
    rows.map(|check| {
        assert!(check.status == CheckStatus::Ok || check.hint.is_some(), "{check:?}");
        (check.name, check.status, check.detail)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_and_the_keys_are_compared() {
    use CheckStatus::{Failed, Ok, Warning};
    const PLAIN: Keys<'_> = (None, &[]);
    const A: Keys<'_> = (Some(Libsodium), &["a"]);
    const PUBLIC: Keys<'_> = (Some(OpenPgp), &["public"]);
    let cases: [(Keys<'_>, Keys<'_>, &[Row<'_>]); 9] = [
        (PLAIN, PLAIN, &[]),
        (
            PLAIN,
            A,
            &[
                ("encryption", Ok, "the next write turns encryption by libsodium on"),
                ("encrypt", Ok, "decrypted again"),
            ],
        ),
        (
            A,
            A,
            &[
                ("encryption", Ok, "is encrypted by libsodium"),
                ("encrypt", Ok, "decrypted again"),
            ],
        ),
        (A, PLAIN, &[("encryption", Failed, "in plain text")]),
        (
            A,
            (Some(Libsodium), &["b"]),
            &[("encryption", Failed, "another libsodium key"), ("encrypt", Ok, "")],
        ),
        (
            A,
            (Some(OpenPgp), &["a"]),
            &[
                ("encryption", Failed, "there is no OpenPGP key"),
                ("encrypt", Failed, ""),
            ],
        ),
        (A, (None, &["a"]), &[("encryption", Warning, "for reading only")]),
        (A, (None, &["b"]), &[("encryption", Failed, "with another key")]),
        (
            PUBLIC,
            PUBLIC,
            &[
                ("encryption", Ok, "by openpgp"),
                ("encrypt", Ok, "cannot be read back here"),
            ],
        ),
    ];
    for (owner, asker, expected) in cases {
        let place = Place::new();
        cluster::claim(&place.store(owner.0, owner.1), &identity())
            .await
            .expect("claimed");
        let found = rows(&place.store(asker.0, asker.1)).await;
        assert_eq!(found.len(), expected.len(), "{owner:?} {asker:?}: {found:?}");
        for ((name, status, detail), (has_name, has_status, says)) in found.iter().zip(expected) {
            assert!(
                name == has_name && status == has_status && detail.contains(says),
                "{owner:?} {asker:?}: {found:?}"
            );
        }
    }
    let place = Place::new();
    let first = rows(&place.store(A.0, A.1)).await;
    assert!(first[0].2.contains("the first server that archives marks"), "{first:?}");
    cluster::claim(&place.store(A.0, A.1), &identity())
        .await
        .expect("claimed");
    // The server has to write.
    let of_server = rows_of(&place.store(None, A.1), Some(&identity())).await;
    assert!(
        of_server[0].1 == Failed && of_server[0].2.contains("in plain text"),
        "{of_server:?}"
    );
    mark::disable(&place.store(A.0, A.1)).await.expect("turned off");
    let off = rows(&place.store(PLAIN.0, PLAIN.1)).await;
    assert!(off.len() == 1 && off[0].1 == Warning, "{off:?}");
}
