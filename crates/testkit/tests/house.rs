//! The plan of the house, held against the code: which file imports which is read from the `use` lines and the paths in
//! the sources, without tests.
//!
//! - No two files import each other, directly or around a circle, but within one backend of a store.
//! - No folder has more than 20 files side by side.
//! - `src/pg` imports nothing from above.
//! - `verify` and `backup/delta` do not import `restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates: the name by which others import it, and its sources.
const CRATES: [(&str, &str); 5] = [
    ("walarchive", "src"),
    ("walarchive_storage", "crates/storage/src"),
    ("walarchive_core", "crates/core/src"),
    ("walarchive_client", "crates/client/src"),
    ("walarchive_cli", "crates/cli/src"),
];

/// Files side by side in one folder.
const MOST_FILES: usize = 20;

/// A module: `walarchive_core::restore::plan`.
type Module = Vec<String>;

/// One source file.
struct Room {
    file: PathBuf,
    text: String,
    /// The names that `pub use` hands on, and what they stand for.
    handed_on: BTreeMap<String, Module>,
}

struct House {
    root: PathBuf,
    rooms: BTreeMap<Module, Room>,
}

impl House {
    fn read() -> House {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().expect("the repository");
        let mut house = House {
            root: root.clone(),
            rooms: BTreeMap::new(),
        };
        for (name, sources) in CRATES {
            house.enter(&root.join(sources), &[name.to_owned()]);
        }
        let modules: Vec<Module> = house.rooms.keys().cloned().collect();
        for module in modules {
            let room = &house.rooms[&module];
            let handed_on = uses(&room.text)
                .into_iter()
                .filter(|(is_public, _)| *is_public)
                .flat_map(|(_, tree)| flatten(&tree))
                .filter_map(|(path, name)| Some((name, house.absolute(&module, &path)?)))
                .collect();
            house.rooms.get_mut(&module).expect("a room").handed_on = handed_on;
        }
        house
    }

    fn enter(&mut self, folder: &Path, module: &[String]) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if name == "tests" {
                continue;
            }
            let mut inner = module.to_vec();
            if path.is_dir() {
                inner.push(name);
                self.enter(&path, &inner);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if !["lib", "main", "mod"].contains(&name.as_str()) {
                    inner.push(name);
                }
                let room = Room {
                    text: without_tests(&fs::read_to_string(&path).expect("a source")),
                    file: path,
                    handed_on: BTreeMap::new(),
                };
                self.rooms.insert(inner, room);
            }
        }
    }

    /// A path as it stands in a module, from its crate on; none if it leads out of the house.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut at = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                at.truncate(1);
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            first if CRATES.iter().any(|(name, _)| *name == first) && module[0] != first => at.clear(),
            first => {
                let mut child = module.clone();
                child.push(first.to_owned());
                if !self.rooms.contains_key(&child) {
                    return None;
                }
            }
        }
        at.extend(rest.iter().cloned());
        Some(at)
    }

    /// The file that defines the path.
    fn defined(&self, path: &Module) -> Option<Module> {
        let (mut path, mut hops) = (path.clone(), 0);
        loop {
            let mut length = path.len();
            while length > 0 && !self.rooms.contains_key(&path[..length]) {
                length -= 1;
            }
            let room = self.rooms.get(&path[..length])?;
            let next = path.get(length).and_then(|name| room.handed_on.get(name));
            match next {
                Some(target) if hops < 8 && *target != path => {
                    path = target.iter().chain(&path[length + 1..]).cloned().collect();
                    hops += 1;
                }
                _ => return Some(path[..length].to_vec()),
            }
        }
    }

    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let text = &self.rooms[module].text;
        let private = uses(text).into_iter().filter(|(is_public, _)| !is_public);
        let mut paths: Vec<Vec<String>> = private
            .flat_map(|(_, tree)| flatten(&tree))
            .map(|(path, _)| path)
            .collect();
        paths.extend(inline(text));
        // A module that was imported by its name: `layout::tar(..)`.
        let mut found: BTreeSet<Module> = paths
            .iter()
            .filter_map(|path| self.defined(&self.absolute(module, path)?))
            .collect();
        found.remove(module);
        found
    }

    fn graph(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        self.rooms
            .keys()
            .map(|module| (module.clone(), self.imports(module)))
            .collect()
    }

    fn name(&self, module: &Module) -> String {
        let file = &self.rooms[module].file;
        file.strip_prefix(&self.root).unwrap_or(file).display().to_string()
    }
}

/// Up to the tests at the end, and without comments.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim_start() == "#[cfg(test)]" {
            // One item follows: to the end of its lines, which are indented as it is.
            let indent = line.len() - line.trim_start().len();
            while lines.peek().is_some_and(|next| next.trim_start().starts_with("#[")) {
                lines.next();
            }
            let Some(first) = lines.next() else { break };
            if first.trim_end().ends_with('{') || first.trim_end().ends_with('(') {
                let is_end =
                    |next: &str| next.len() - next.trim_start().len() == indent && next.trim_start().starts_with('}');
                for next in lines.by_ref() {
                    if is_end(next) {
                        break;
                    }
                }
            }
            continue;
        }
        let is_comment = line.trim_start().starts_with("//");
        code.push_str(if is_comment { "" } else { line });
        code.push('\n');
    }
    code
}

/// The trees of all `use` declarations, and whether each hands on.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = rest[line..at].trim();
        let is_use = before.is_empty() || (before.starts_with("pub") && !before.contains(' '));
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if is_use {
            let tree = rest[at + 4..end].split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((before.starts_with("pub"), tree));
            rest = &rest[end..];
        } else {
            rest = &rest[at + 4..];
        }
    }
    found
}

/// The paths of a tree, each with the name under which it is known.
fn flatten(tree: &str) -> Vec<(Vec<String>, String)> {
    fn walk(tree: &str, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let tree = tree.trim();
        let (head, group) = match tree.find('{') {
            Some(at) => (&tree[..at], Some(&tree[at + 1..tree.rfind('}').unwrap_or(tree.len())])),
            None => (tree, None),
        };
        let mut path = prefix.to_vec();
        let (plain, alias) = head.split_once(" as ").unwrap_or((head, ""));
        path.extend(
            plain
                .split("::")
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned),
        );
        match group {
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
                    match letter {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            walk(&group[start..at], &path, found);
                            start = (at + 1).min(group.len());
                        }
                        _ => {}
                    }
                }
            }
            None if plain.trim().is_empty() => {}
            None => {
                if path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = if alias.is_empty() {
                    path.last().cloned().unwrap_or_default()
                } else {
                    alias.trim().to_owned()
                };
                found.push((path, name));
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// Paths within the code that begin with `crate::` or `super::`.
fn inline(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "walarchive_core::", "walarchive_storage::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':' | '$')) {
                continue;
            }
            let is_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
            let path: String = text[at..].chars().take_while(|letter| is_path(*letter)).collect();
            let path: Vec<String> = path
                .split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect();
            if path.len() > 1 {
                found.push(path);
            }
        }
    }
    found
}

/// The circles of a graph: its strongly connected parts of more than one room (Tarjan's algorithm, by hand on a stack).
fn circles(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    struct Walk<'a> {
        graph: &'a BTreeMap<Module, BTreeSet<Module>>,
        index: BTreeMap<&'a Module, usize>,
        low: BTreeMap<&'a Module, usize>,
        stack: Vec<&'a Module>,
        found: Vec<Vec<Module>>,
    }
    impl<'a> Walk<'a> {
        fn visit(&mut self, room: &'a Module) {
            let number = self.index.len();
            self.index.insert(room, number);
            self.low.insert(room, number);
            self.stack.push(room);
            for next in &self.graph[room] {
                if !self.index.contains_key(next) {
                    self.visit(next);
                    let low = self.low[next].min(self.low[room]);
                    self.low.insert(room, low);
                } else if self.stack.contains(&next) {
                    let low = self.index[next].min(self.low[room]);
                    self.low.insert(room, low);
                }
            }
            if self.low[room] == number {
                let at = self.stack.iter().position(|other| *other == room).unwrap_or(0);
                let part: Vec<Module> = self.stack.split_off(at).into_iter().cloned().collect();
                if part.len() > 1 {
                    self.found.push(part);
                }
            }
        }
    }
    let mut walk = Walk {
        graph,
        index: BTreeMap::new(),
        low: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for room in graph.keys() {
        if !walk.index.contains_key(room) {
            walk.visit(room);
        }
    }
    walk.found
}

/// The files of one backend follow their protocol, which may ask for it.
fn is_one_backend(circle: &[Module]) -> bool {
    let backends = ["walarchive_storage", "backends"];
    let of = |room: &Module| room.get(2).cloned();
    circle
        .iter()
        .all(|room| room[..2] == backends && of(room) == of(&circle[0]))
}

#[test]
fn no_files_import_each_other() {
    let house = House::read();
    let graph = house.graph();
    let mut text = String::new();
    for circle in circles(&graph) {
        if is_one_backend(&circle) {
            continue;
        }
        text += &format!("circle of {}:\n", circle.len());
        for room in &circle {
            let within = graph[room].iter().filter(|next| circle.contains(next));
            let next: Vec<String> = within.map(|next| house.name(next)).collect();
            text += &format!("  {} -> {}\n", house.name(room), next.join(", "));
        }
    }
    assert!(text.is_empty(), "{text}");
}

#[test]
fn no_folder_is_crowded() {
    let house = House::read();
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for room in house.rooms.values() {
        let folder = room.file.parent().expect("a folder").to_path_buf();
        *folders.entry(folder).or_default() += 1;
    }
    let tests = fs::read_dir(house.root.join("pg_test/tests")).expect("tests").count();
    folders.insert(house.root.join("pg_test/tests"), tests);
    let crowded: Vec<_> = folders.iter().filter(|(_, files)| **files > MOST_FILES).collect();
    assert!(crowded.is_empty(), "{crowded:?}");
}

#[test]
fn imports_run_one_way() {
    let house = House::read();
    let graph = house.graph();
    let is_below = |module: &Module, place: &str| {
        let module = module.join("::");
        module == place || module.starts_with(&format!("{place}::"))
    };
    let rules = [
        ("walarchive_core::verify", "walarchive_core::restore"),
        ("walarchive_core::backup::delta", "walarchive_core::restore"),
        ("walarchive_storage", "walarchive_core"),
    ];
    for (module, imports) in &graph {
        for next in imports {
            let text = format!("{} imports {}", house.name(module), house.name(next));
            for (from, to) in rules {
                assert!(!(is_below(module, from) && is_below(next, to)), "{text}");
            }
            let leaves_pg =
                is_below(module, "walarchive::pg") && is_below(next, "walarchive") && !is_below(next, "walarchive::pg");
            assert!(!leaves_pg, "{text}");
        }
    }
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let tree = flatten("a::{b, c::{self, d as e}, f::*}");
    let paths: Vec<String> = tree
        .iter()
        .map(|(path, name)| format!("{} {name}", path.join("::")))
        .collect();
    assert_eq!(paths, ["a::b b", "a::c c", "a::c::d e", "a::f::* *"]);
    let text =
        "use x::Y;\npub use z;\n// use no;\nfn f() { crate::q::r(); }\n#[cfg(test)]\nmod tests {\n    use t::U;\n}\n";
    let code = without_tests(text);
    assert_eq!(uses(&code), [(false, "x::Y".to_owned()), (true, "z".to_owned())]);
    assert_eq!(inline(&code), [["crate", "q", "r"]]);
    let room = |name: &str| vec![name.to_owned()];
    let graph = BTreeMap::from([
        (room("a"), BTreeSet::from([room("b")])),
        (room("b"), BTreeSet::from([room("c")])),
        (room("c"), BTreeSet::from([room("a")])),
        (room("d"), BTreeSet::from([room("a")])),
    ]);
    assert_eq!(circles(&graph).len(), 1);
    assert_eq!(circles(&graph)[0].len(), 3);
}
