//! `--link OLD=NEW`: what was behind a symbolic link of the original is behind one again, where the user wants it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::bare::is_bare;
use super::owner::Owner;
use super::root::Root;
use super::system::is_of_the_system;
use super::tablespaces::{halves, settled};
use crate::data_dir::is_wal_directory_name;
use crate::error::{Error, Result};
use crate::formats::FollowedLink;
use crate::places;
use crate::stored::member::{MemberPath, is_always_new};

/// So many of the links that could be meant are named.
const NAMED: usize = 8;

/// `--link OLD=NEW`, any number of times. OLD is a path in the data directory, or where the link led.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkMap {
    each: Vec<(String, PathBuf)>,
}

impl LinkMap {
    /// Add one `OLD=NEW`. A `=` in a path is written `\=`.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let invalid = |message: String| {
            Error::config(
                message,
                "Write OLD=NEW, where OLD is the link's path in the data directory or where it led, and NEW an absolute path.",
            )
        };
        let (old, new) = halves(text).ok_or_else(|| invalid(format!("\"{text}\" is not the mapping of a link")))?;
        if old.is_empty() || !Path::new(&new).is_absolute() {
            return Err(invalid(format!("\"{text}\" does not map a link to an absolute path")));
        }
        let old = old.trim_end_matches('/').to_owned();
        if self.each.iter().any(|(known, _)| *known == old) {
            return Err(invalid(format!("link \"{old}\" is mapped twice")));
        }
        // Without a slash at its end, and nothing else is changed.
        self.each.push((old, Path::new(&new).components().collect()));
        Ok(())
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Find the links among those that the backup followed; those that are behind others come later.
    pub(crate) fn resolve(&self, followed: &[FollowedLink]) -> Result<Vec<MappedLink>> {
        let mut links: Vec<MappedLink> = Vec::new();
        for (old, location) in &self.each {
            let link = find(old, followed)?;
            check_place(&link.path)?;
            if links.iter().any(|known| known.path == link.path) {
                return Err(Error::config(
                    format!("link \"{}\" is mapped twice", link.path),
                    "It is named by its path and by where it led; name it once.",
                ));
            }
            links.push(MappedLink {
                path: link.path.clone(),
                original: link.target.clone(),
                location: location.clone(),
                is_directory: link.is_directory,
            });
        }
        links.sort_by_key(|link| link.path.split('/').count());
        Ok(links)
    }
}

fn find<'a>(old: &str, followed: &'a [FollowedLink]) -> Result<&'a FollowedLink> {
    let by_path = followed.iter().find(|link| link.path == old);
    let by_target: Vec<&FollowedLink> = followed.iter().filter(|link| link.target == old).collect();
    match (by_path, &by_target[..]) {
        (Some(link), _) => Ok(link),
        (None, [link]) => Ok(*link),
        (None, []) if is_wal_directory_name(old) => Err(Error::config(
            format!("--link does not apply to {old}"),
            "Use --waldir.",
        )),
        (None, []) => {
            let known = followed.iter().take(NAMED);
            let known: Vec<String> = known.map(described).collect();
            let more = match followed.len() - known.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Err(Error::refused(
                format!("the backup followed no symbolic link \"{old}\""),
                match known.is_empty() {
                    true => "It followed none at all.".to_owned(),
                    false => format!("It followed {}{more}.", known.join(", ")),
                },
            ))
        }
        (None, several) => {
            let paths: Vec<String> = several.iter().map(|link| described(link)).collect();
            Err(Error::refused(
                format!("several links led to \"{old}\""),
                format!("Name the one that is meant by its path: {}.", paths.join(", ")),
            ))
        }
    }
}

fn described(link: &FollowedLink) -> String {
    format!(
        "\"{}\" (to \"{}\")",
        link.path.escape_debug(),
        link.target.escape_debug()
    )
}

/// The repository says which links there were, and it is not trusted: only what a server itself reads through a link is one.
fn check_place(path: &str) -> Result<()> {
    let refused = |hint: &str| Error::refused(format!("\"{}\" cannot be made a link", path.escape_debug()), hint);
    let in_tablespace = path == "pg_tblspc" || path.starts_with("pg_tblspc/");
    match MemberPath::parse(path.as_bytes()) {
        _ if is_wal_directory_name(path) => Err(refused("Use --waldir.")),
        _ if in_tablespace => Err(refused("Tablespaces go elsewhere with --tablespace-map.")),
        // A restore treats them in a way of its own, and servers write them again.
        Ok(_) if is_always_new(path.as_bytes()) => Err(refused("It is restored as a file only.")),
        Ok(parsed) if parsed.joined() == path.as_bytes() && places::is_of_server(Path::new(path)) => Ok(()),
        _ => Err(refused("The server does not keep its own data there.")),
    }
}

/// A link that the restore makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedLink {
    /// In the data directory.
    pub path: String,
    /// Its target when the backup was taken.
    pub original: String,
    /// Its new target.
    pub location: PathBuf,
    /// To a directory, or to a file.
    pub is_directory: bool,
}

/// A link, and what exists of where it is to lead.
#[derive(Debug)]
pub(crate) struct LinkPlace {
    pub(crate) link: MappedLink,
    /// The directory; for a file, its future directory.
    root: Option<Root>,
}

/// A link, and where it leads, open.
pub(crate) struct OpenLink {
    /// Its place in the data directory.
    at: Vec<Vec<u8>>,
    /// In the root; none for the root itself.
    below: Vec<Vec<u8>>,
    root: Root,
    location: PathBuf,
}

/// Look where the links are to lead. These must be places of their own, apart from all that are `taken`, with nothing in them.
pub(crate) fn find_places(links: &[MappedLink], taken: &[PathBuf], owner: Option<Owner>) -> Result<Vec<LinkPlace>> {
    let mut taken = taken.to_vec();
    let mut places = Vec::new();
    for link in links {
        let real = settled(&link.location)?;
        let mut others = taken.iter();
        if let Some(other) = others.find(|other| other.starts_with(&real) || real.starts_with(other)) {
            return Err(Error::config(
                format!(
                    "\"{}\", the place of link \"{}\", and \"{}\" overlap",
                    link.location.display(),
                    link.path,
                    other.display()
                ),
                "Give it a place of its own with --link OLD=NEW.",
            ));
        }
        check_owner(link, &real, owner)?;
        taken.push(real);
        let root = Root::find(link.directory())?;
        match (&root, link.is_directory) {
            (Some(root), true) => root.lock()?,
            (None, false) => {
                return Err(Error::refused(
                    format!("directory \"{}\" does not exist", link.directory().display()),
                    format!(
                        "File \"{}\" is to go there: create it, or give another place with --link OLD=NEW.",
                        link.path
                    ),
                ));
            }
            _ => {}
        }
        if let Some(root) = &root {
            link.check_vacant(root)?;
        }
        places.push(LinkPlace {
            link: link.clone(),
            root,
        });
    }
    Ok(places)
}

/// Root writes nothing into a directory of the system that the owner of the files could not write there himself.
fn check_owner(link: &MappedLink, real: &Path, owner: Option<Owner>) -> Result<()> {
    if !geteuid().is_root() || !is_of_the_system(real) {
        return Ok(());
    }
    let parents = real.ancestors().skip(usize::from(!link.is_directory));
    let nearest = parents.into_iter().find_map(|parent| parent.symlink_metadata().ok());
    let owner = owner.filter(|owner| owner.uid != 0);
    match (owner, nearest) {
        (Some(owner), Some(nearest)) if nearest.is_dir() && nearest.uid() == owner.uid => Ok(()),
        _ => Err(Error::refused(
            format!(
                "link \"{}\" would lead into a directory of the system: \"{}\"",
                link.path,
                real.display()
            ),
            "Give another place with --link OLD=NEW. Root writes there only with --owner, if that user owns the directory.",
        )),
    }
}

impl MappedLink {
    /// The directory that is opened: it itself; for a file, its future directory.
    fn directory(&self) -> &Path {
        match self.is_directory {
            true => &self.location,
            false => self.location.parent().unwrap_or(&self.location),
        }
    }

    /// The components below that directory.
    fn below(&self) -> Vec<Vec<u8>> {
        let name = self.location.file_name().filter(|_| !self.is_directory);
        name.map(|name| name.as_bytes().to_vec()).into_iter().collect()
    }

    fn check_vacant(&self, root: &Root) -> Result<()> {
        let is_vacant = match self.is_directory {
            true => is_bare(root, None)?,
            false => !root.has(&self.below())?,
        };
        if is_vacant {
            return Ok(());
        }
        let (place, path) = (self.location.display(), &self.path);
        Err(Error::refused(
            match self.is_directory {
                true => format!("directory \"{place}\", the place of link \"{path}\", is not empty"),
                false => format!("\"{place}\" exists already, and link \"{path}\" is to lead there"),
            },
            "Empty or remove it if nothing uses it, or give another place with --link OLD=NEW.",
        ))
    }
}

impl LinkPlace {
    /// Create what is missing.
    pub(crate) fn open(self, owner: Option<Owner>) -> Result<OpenLink> {
        let LinkPlace { link, root } = self;
        let root = root.map_or_else(|| Root::create(link.directory(), owner), Ok)?;
        // Since the plan some time has passed.
        link.check_vacant(&root)?;
        Ok(OpenLink {
            at: link.path.split('/').map(|part| part.as_bytes().to_vec()).collect(),
            below: link.below(),
            root,
            location: link.location,
        })
    }
}

impl OpenLink {
    pub(crate) fn at(&self) -> &[Vec<u8>] {
        &self.at
    }

    pub(crate) fn location(&self) -> &Path {
        &self.location
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.below.is_empty()
    }

    /// The real place of something that has this path in the data directory, if the link leads there.
    pub(crate) fn locate<'a>(&'a self, components: &'a [Vec<u8>]) -> Option<(&'a Root, &'a [Vec<u8>])> {
        let rest = components.strip_prefix(&self.at[..])?;
        match (self.is_directory(), rest.is_empty()) {
            (true, _) => Some((&self.root, rest)),
            (false, true) => Some((&self.root, &self.below)),
            (false, false) => None,
        }
    }
}

/// Of a link in a directory that is restored into with `--delta`: nothing behind it is looked at, so nothing there is removed either.
pub(crate) fn refused_by_delta(link: &Path, target: Option<&Path>) -> Error {
    let target = target.map_or(String::new(), |target| format!(" to \"{}\"", target.display()));
    Error::refused(
        format!(
            "\"{}\" is a symbolic link{target}, and --delta does not restore through it",
            link.display()
        ),
        "To have a link again, add --link OLD=NEW, with the link's path in the data directory and a place that is \
         empty or absent. Or remove the link: a directory or file takes its place. Either way, its present target \
         is left alone.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed() -> Vec<FollowedLink> {
        [
            ("base", "/disk/base", true),
            ("base/5", "/disk/five", true),
            ("pg_xact", "/disk/x=y", true),
            ("pg_commit_ts", "/disk/same", true),
            ("pg_twophase", "/disk/same", true),
            ("postgresql.conf", "/etc/pg/postgresql.conf", false),
            // As only a repository that lies has them.
            ("pg_hba.d/x", "/disk/hba", true),
            ("../outside", "/disk/outside", true),
            ("pg_wal", "/disk/wal", true),
            ("pg_tblspc/1/PG_15_1", "/disk/ts", true),
            ("global/pg_control", "/disk/control", false),
        ]
        .map(|(path, target, is_directory)| FollowedLink {
            path: path.to_owned(),
            target: target.to_owned(),
            is_directory,
        })
        .to_vec()
    }

    fn resolved(texts: &[&str]) -> Result<Vec<String>> {
        let mut map = LinkMap::default();
        texts.iter().try_for_each(|text| map.add(text))?;
        let shown = |link: &MappedLink| format!("{} {}", link.path, link.location.display());
        Ok(map.resolve(&followed())?.iter().map(shown).collect())
    }

    #[test]
    fn links_are_named_by_their_paths_or_by_where_they_led() {
        let links = resolved(&[
            "base/5=/n/5",
            "/disk/base/=/n/base/",
            "/disk/x\\=y=/n/a\\=b",
            "postgresql.conf=/n/c",
        ]);
        assert_eq!(
            links.expect("resolved"),
            ["base /n/base", "pg_xact /n/a=b", "postgresql.conf /n/c", "base/5 /n/5"]
        );
        for text in ["", "a", "=/b", "a=b", "a=/b=c"] {
            assert!(LinkMap::default().add(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_link_of_the_server_is_refused() {
        for (texts, says, hint) in [
            (
                &["pg_subtrans=/n"][..],
                "followed no symbolic link \"pg_subtrans\"",
                "\"base\" (to \"/disk/base\")",
            ),
            (&["/disk/same=/n"], "several links led to", "\"pg_twophase\""),
            (&["base=/n", "/disk/base=/m"], "is mapped twice", "name it once"),
            (&["base=/n", "base/=/m"], "is mapped twice", "Write OLD=NEW"),
            (
                &["pg_hba.d/x=/n"],
                "cannot be made a link",
                "does not keep its own data there",
            ),
            (
                &["/disk/outside=/n"],
                "cannot be made a link",
                "does not keep its own data there",
            ),
            (&["pg_wal=/n"], "cannot be made a link", "--waldir"),
            (&["/disk/ts=/n"], "cannot be made a link", "--tablespace-map"),
            (&["global/pg_control=/n"], "cannot be made a link", "as a file only"),
        ] {
            let error = resolved(texts).expect_err(says);
            let told = error.hint().unwrap_or_default();
            assert!(
                error.to_string().contains(says) && told.contains(hint),
                "{texts:?}: {error}, {told}"
            );
        }
        let mut map = LinkMap::default();
        map.add("pg_wal=/n").expect("a mapping");
        let error = map.resolve(&[]).expect_err("no link");
        assert!(error.hint().is_some_and(|hint| hint.contains("--waldir")), "{error}");
    }
}
