use super::*;

#[test]
fn only_relations_of_other_users_databases_are_left_out() {
    let some = Databases {
        wanted: Some(BTreeSet::from([16_400])),
        of_server: BTreeSet::from([16_500]),
        unwanted: BTreeMap::from([(16_400, BTreeSet::from([16_410]))]),
    };
    for (path, expected) in [
        ("base/16401/2619", true),
        ("base/16401/2619_fsm", true),
        ("base/16401/t3_5", false),
        ("pg_tblspc/16390/PG_15_202209061/16401/2619.1", true),
        ("pg_tblspc/16390/PG_15_202209061/16400/2619.1", false),
        ("base/16401/PG_VERSION", false),
        ("base/16401/pg_filenode.map", true),
        ("pg_tblspc/16390/PG_15_202209061/16401/pg_filenode.map", true),
        ("base/16400/pg_filenode.map", false),
        ("base/5/pg_filenode.map", false),
        ("global/pg_filenode.map", false),
        ("base/16400/2619", false),
        ("base/16400/16410", true),
        ("base/16400/16410.1", true),
        ("base/16400/16410_vm", true),
        ("base/16400/164100", false),
        ("base/16500/16410", false),
        ("base/5/2619", false),
        ("base/16500/2619", false),
        ("global/1262", false),
        ("base/16401", false),
        ("base/x/1", false),
        ("base/16401/1/2", false),
    ] {
        assert_eq!(some.content(path.as_bytes()) == Content::LeftOut, expected, "{path}");
        assert_eq!(Databases::default().content(path.as_bytes()), Content::Whole);
    }
}

/// The databases that are meant, and the files of each that are left out.
type Chosen = (BTreeSet<u32>, Vec<(u32, Vec<u32>)>);

fn chosen(wanted: &[&str]) -> Result<Chosen, String> {
    let text = r#"{"Files": {}, "DatabasesByNames": {
        "shop": {"tables_new": {
            "public.items": {"oid": 16500, "relfilenode": 16600},
            "public.items_pkey": {"oid": 16501, "relfilenode": 16601},
            "pg_toast.pg_toast_16500": {"oid": 16502, "relfilenode": 16602},
            "pg_toast.pg_toast_16500_index": {"oid": 16503, "relfilenode": 16603},
            "old.items": {"oid": 16510, "relfilenode": 16610},
            "public.parts": {"oid": 16520, "relfilenode": 0, "subtables": {"public.p1": {"oid": 16521, "relfilenode": 16621}}},
            "pg_catalog.pg_proc": {"oid": 1255, "relfilenode": 1255}
        }, "oid": 16400},
        "plain": {"oid": 16401}}}"#;
    let wanted: Vec<Wanted> = wanted
        .iter()
        .map(|text| Wanted::parse(text))
        .collect::<Result<_>>()
        .map_err(|error| error.to_string())?;
    let mut names = Names::of(&wanted);
    crate::formats::files_metadata::listen(text.as_bytes(), &mut names).map_err(|error| error.to_string())?;
    let mut oids = BTreeSet::new();
    for wanted in &wanted {
        oids.extend(names.find(wanted, "base_1").map_err(|error| error.to_string())?);
    }
    let unwanted = names.relations.iter();
    let unwanted = unwanted.map(|(name, relations)| {
        let files = relations.unwanted.iter().copied().collect();
        (names.databases[name], files)
    });
    Ok((oids, unwanted.collect()))
}

#[test]
fn a_table_comes_with_its_toast_and_its_partitions() {
    let all = [16_600, 16_601, 16_602, 16_603, 16_610, 16_621];
    let without = |wanted: &[u32]| {
        all.iter()
            .copied()
            .filter(|file| !wanted.contains(file))
            .collect::<Vec<_>>()
    };
    for (text, wanted) in [
        ("shop/items", &[16_600, 16_602, 16_603][..]),
        ("shop/public.items", &[16_600, 16_602, 16_603]),
        ("shop/old/items", &[16_610]),
        ("shop/parts", &[16_621]),
        ("sh*/public.it*", &[16_600, 16_601, 16_602, 16_603]),
        ("16400/items", &[16_600, 16_602, 16_603]),
    ] {
        let (oids, mut unwanted) = chosen(&[text]).expect(text);
        assert_eq!(oids, BTreeSet::from([16_400]), "{text}");
        let (oid, files) = unwanted.pop().expect("one database");
        assert_eq!((oid, files), (16_400, without(wanted)), "{text}");
    }
    assert_eq!(chosen(&["plain"]), Ok((BTreeSet::from([16_401]), vec![])));
    for (text, says) in [
        ("shop/nothing", "knows no table \"public.nothing\""),
        ("plain/items", "does not have the names of its tables"),
        ("none/items", "knows no database \"none\""),
        ("a/b/c/d", "names neither"),
        ("/items", "names neither"),
        ("shop/x.", "names neither"),
    ] {
        let error = chosen(&[text]).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_star_stands_for_any_part_of_a_name() {
    for (name, pattern, expected) in [
        ("abc", "abc", true),
        ("abc", "ab", false),
        ("abc", "*", true),
        ("", "*", true),
        ("abc", "a*c", true),
        ("ac", "a*c", true),
        ("abd", "a*c", false),
        ("aXbXc", "a*b*c", true),
        ("ab", "a*b*b", false),
        ("aba", "ab*ba", false),
    ] {
        assert_eq!(is_like(name, pattern), expected, "{name} {pattern}");
    }
}
