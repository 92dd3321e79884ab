//! The layers of `src`: the permitted imports between rooms, and no cycles between modules and files.
//! `UPDATE=1 cargo test --test architecture` writes the section "Rooms" of docs/develop/architecture.md from
//! the table here.

// All code of this file is test code. clippy exempts only `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A folder or file of `src`.
struct Room {
    name: &'static str,
    subject: &'static str,
    /// Without async, clock, randomness and I/O.
    pure: bool,
    /// The rooms that it may import, separated by spaces.
    imports: &'static str,
}

impl Room {
    fn imports(&self) -> impl Iterator<Item = &'static str> {
        self.imports.split_whitespace()
    }
}

const fn pure(name: &'static str, subject: &'static str, imports: &'static str) -> Room {
    Room { name, subject, pure: true, imports }
}

const fn room(name: &'static str, subject: &'static str, imports: &'static str) -> Room {
    Room { name, subject, pure: false, imports }
}

const ROOMS: [Room; 18] = [
    pure(
        "catalog",
        "Offers with their list prices, and the identifiers of sizes, offers and datacenters",
        "",
    ),
    pure("cost", "Money, prices of offers, comparison of offers, limits, marginal prices", "catalog"),
    pure("fleet", "Machines and pools, and their changes by commands, listings and time", "catalog cost"),
    pure(
        "join",
        "The payload by which a VM joins a self-managed cluster: templates, labels, CA hashes",
        "fleet",
    ),
    pure("placement", "The order of Cluster Autoscaler's options", "catalog cost fleet"),
    room("clock", "The wall clock", ""),
    room("retry_after", "The `Retry-After` of replies, with a maximum", ""),
    room("telemetry", "Metrics, logs, and the HTTP port that serves them", ""),
    room("api", "The types of the CRDs and their rules", "catalog cost fleet"),
    room(
        "validation",
        "Checks of NodeGroups, from manifests and from the API server",
        "api catalog cost fleet join vpsie",
    ),
    room(
        "kubernetes",
        "Access to the API server: client, leader election, fence of writes, drain, events, permissions",
        "api clock retry_after telemetry",
    ),
    room(
        "vpsie",
        "The API of VPSie: transport, login, limits, lenient parsing; the backends for managed Kubernetes and for plain VMs",
        "catalog clock fleet retry_after telemetry",
    ),
    room(
        "store",
        "Durable records: VPSieNodes, a file (redb), or memory for simulations",
        "api catalog fleet kubernetes",
    ),
    room(
        "control",
        "The writer of the fleet, and the loops: provision, removal, catalog, nodes, drain, NodeGroups, records, \
         credentials, joins",
        "api catalog clock cost fleet join kubernetes retry_after store telemetry validation vpsie",
    ),
    room(
        "simulator",
        "A VPSie API in a process, with shapes for the contradictions of clients, and with faults",
        "catalog clock vpsie",
    ),
    room(
        "grpc",
        "The CloudProvider and Expander services, past decisions, TLS, health, reflection",
        "api catalog clock control cost fleet placement telemetry",
    ),
    room(
        "config",
        "Flags, environment and files",
        "catalog cost fleet grpc kubernetes simulator telemetry validation vpsie",
    ),
    room(
        "cli",
        "The subcommands, and the assembly of `serve`",
        "api catalog clock config control cost fleet grpc kubernetes placement simulator store telemetry validation vpsie",
    ),
];

/// Not allowed in pure rooms.
const IMPURE: [&str; 14] = [
    "async fn",
    "async move",
    "kube::",
    "rand::",
    "reqwest::",
    "std::fs",
    "std::process",
    "std::thread",
    "tokio::",
    "tonic::",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
];

/// A path of modules and items, from the root of the crate: `fleet::ids::PoolId`.
type Names = Vec<String>;

/// An imported name.
#[derive(Clone, Debug, PartialEq)]
struct Import {
    path: Names,
    name: String,
    /// Re-exported by `pub use`.
    is_public: bool,
}

struct Module {
    file: String,
    imports: Vec<Import>,
    /// The code without comments, imports and tests.
    code: String,
}

/// The modules of the crate without tests.
struct Crate(BTreeMap<Names, Module>);

impl Crate {
    fn read() -> Self {
        let mut files = Vec::new();
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("src"), &mut files);
        assert!(files.len() > 200, "{} files", files.len());
        Self::new(files)
    }

    /// Parses files with their text.
    fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut modules = BTreeMap::new();
        let mut tests = BTreeSet::new();
        for (file, text) in files {
            let module = module_name(&file);
            let code = without_comments(&text);
            for name in test_modules(&code) {
                tests.insert([module.clone(), vec![name]].concat());
            }
            let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let (imports, code) = split_imports(code);
            modules.insert(module, Module { file, imports, code });
        }
        modules.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self(modules)
    }

    /// The module that defines the named item. Follows re-exports. None if it is not of this crate.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<Names> {
        let first = path.first()?;
        let absolute = match first.as_str() {
            "crate" => path[1..].to_vec(),
            "self" => [from, &path[1..]].concat(),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                [&from[..from.len().checked_sub(ups)?], &path[ups..]].concat()
            }
            _ => {
                let child = [from, path].concat();
                self.0.contains_key(&child[..=from.len()]).then_some(child)?
            }
        };
        let known = (0..=absolute.len()).rev().find(|end| self.0.contains_key(&absolute[..*end]))?;
        let (module, item) = absolute.split_at(known);
        let exported = item.first().filter(|_| depth < 6).and_then(|item| {
            let mut exports = self.0[module].imports.iter().filter(|import| import.is_public);
            let export = exports.find(|import| import.name == *item)?;
            self.resolve(module, &export.path, depth + 1)
        });
        Some(exported.unwrap_or_else(|| module.to_vec()))
    }

    /// The modules that a module refers to.
    fn targets(&self, from: &[String]) -> BTreeSet<Names> {
        let module = &self.0[from];
        let imported =
            module.imports.iter().filter(|import| !import.is_public).map(|import| import.path.clone());
        let named = imported.chain(paths(&module.code));
        named.filter_map(|path| self.resolve(from, &path, 0)).filter(|target| target != from).collect()
    }

    /// The imported rooms of each room, with an example file.
    fn room_imports(&self) -> BTreeMap<(&str, String), &str> {
        let mut found = BTreeMap::new();
        for (module, Module { file, .. }) in &self.0 {
            let Some(room) = module.first() else { continue };
            for target in self.targets(module) {
                let Some(target) = target.first().filter(|target| *target != room) else { continue };
                found.entry((room.as_str(), target.clone())).or_insert(file.as_str());
            }
        }
        found
    }

    /// Violations of the table and of the rules, one line each.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for ((room, target), file) in self.room_imports() {
            let allowed = ROOMS.iter().find(|known| known.name == room);
            match allowed {
                None if room != "main" => found.push(format!("{file}: the table has no room {room}")),
                Some(allowed) if !allowed.imports().any(|import| import == target) => {
                    found.push(format!("{file}: {room} must not import {target}"));
                }
                _ => {}
            }
        }
        for (module, Module { file, code, imports }) in &self.0 {
            let is_pure =
                ROOMS.iter().any(|room| room.pure && module.first().is_some_and(|m| m == room.name));
            let imports = imports.iter().map(|import| import.path.join("::"));
            let code = imports.chain([code.clone()]).collect::<Vec<_>>().join("\n");
            let impure = IMPURE.iter().filter(|word| is_pure && has_word(&code, word));
            found.extend(impure.map(|word| format!("{file}: {word} in a pure room")));
        }
        found.extend(self.cycles().into_iter().map(|cycle| format!("cycle: {cycle}")));
        found
    }

    /// The shortest cycle of each file. A module and its parent may refer to each other.
    fn cycles(&self) -> BTreeSet<String> {
        let is_kin = |a: &[String], b: &[String]| a.starts_with(b) || b.starts_with(a);
        let edges: BTreeMap<&Names, BTreeSet<Names>> = self
            .0
            .keys()
            .map(|from| (from, self.targets(from).into_iter().filter(|to| !is_kin(from, to)).collect()))
            .collect();
        edges.keys().filter_map(|start| find_cycle(&edges, start)).collect()
    }
}

/// The shortest path from a module back to itself, starting with its first module by name.
fn find_cycle(edges: &BTreeMap<&Names, BTreeSet<Names>>, start: &Names) -> Option<String> {
    let mut came_from: BTreeMap<&Names, &Names> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for next in edges.get(module).into_iter().flatten() {
            if next == start {
                let mut path = vec![module];
                while let Some(before) = came_from.get(path[path.len() - 1]) {
                    path.push(before);
                }
                path.reverse();
                let first = path.iter().enumerate().min_by_key(|(_, module)| **module)?.0;
                path.rotate_left(first);
                path.push(path[0]);
                return Some(path.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(" -> "));
            }
            if next != start && !came_from.contains_key(next) {
                came_from.insert(next, module);
                queue.push_back(next);
            }
        }
    }
    None
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root.join(&path)).unwrap();
            files.push((path.to_str().unwrap().to_owned(), text));
        }
    }
}

/// `fleet::ids` of `src/fleet/ids.rs`.
fn module_name(file: &str) -> Names {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Names = path.split('/').map(ToOwned::to_owned).collect();
    if names.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        names.pop();
    }
    names
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim_end().to_owned() + "\n")
        .collect()
}

/// Modules in separate files that exist only in tests.
fn test_modules(code: &str) -> Vec<String> {
    let declared = code.split("#[cfg(test)]\n").skip(1).filter_map(|rest| rest.lines().next());
    let names = declared.filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    names.map(ToOwned::to_owned).collect()
}

/// The imports of a file, and its code without them.
fn split_imports(code: &str) -> (Vec<Import>, String) {
    let (mut imports, mut rest, mut open) = (Vec::new(), String::new(), None::<String>);
    for line in code.lines() {
        let trimmed = line.trim();
        let begins = trimmed.starts_with("use ") || trimmed.starts_with("pub") && trimmed.contains(" use ");
        if open.is_none() && !begins {
            writeln!(rest, "{line}").unwrap();
            continue;
        }
        let statement = open.take().unwrap_or_default() + trimmed;
        match statement.split_once(';') {
            None => open = Some(statement + " "),
            Some((statement, _)) => {
                let (before, tree) = statement.split_once("use ").unwrap_or_default();
                expand(&[], tree, &mut |path, name| {
                    imports.push(Import { path, name, is_public: before.starts_with("pub") });
                });
            }
        }
    }
    (imports, rest)
}

/// Calls `add` with path and name of each import in `a::{b, c::D as E}`.
fn expand(prefix: &[String], tree: &str, add: &mut impl FnMut(Names, String)) {
    let tree = tree.trim();
    let Some((path, list)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let names = path.split("::").map(str::trim).filter(|name| !["", "*"].contains(name));
        let path: Names = prefix.iter().cloned().chain(names.map(ToOwned::to_owned)).collect();
        let name = if alias.is_empty() { path.last().cloned() } else { Some(alias.trim().to_owned()) };
        return add(path, name.unwrap_or_default());
    };
    let names = path.split("::").map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned);
    let prefix: Names = prefix.iter().cloned().chain(names).collect();
    let list = list.rsplit_once('}').map_or(list, |(list, _)| list);
    let mut depth = 0;
    let parts = list.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for part in parts.filter(|part| !part.trim().is_empty()) {
        expand(&prefix, part, add);
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(is_name))
}

/// Paths in code that start with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<Names> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|c| is_name(c) || c == ':') {
                continue;
            }
            let path = code[at..].split(|c| !is_name(c) && c != ':').next().unwrap_or_default();
            found.push(path.split("::").filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect());
        }
    }
    found
}

/// Length of the longest chain of imports below a room.
fn layer(name: &str) -> usize {
    let room = ROOMS.iter().find(|room| room.name == name).unwrap();
    room.imports().map(|below| layer(below) + 1).max().unwrap_or(0)
}

fn draw_layers() -> String {
    let top = ROOMS.iter().map(|room| layer(room.name)).max().unwrap();
    let mut picture = String::new();
    for number in (0..=top).rev() {
        let rooms = ROOMS.iter().filter(|room| layer(room.name) == number);
        let names =
            rooms.map(|room| if room.pure { format!("[{}]", room.name) } else { room.name.to_owned() });
        writeln!(picture, "  {number}   {}", names.collect::<Vec<_>>().join("   ")).unwrap();
    }
    picture
}

/// The section of docs/develop/architecture.md.
fn section() -> String {
    let mut section = format!(
        "## Rooms\n\nWritten by `UPDATE=1 cargo test --test architecture` from the table in `tests/architecture.rs`, \
         which refuses any\nother import and every cycle between files ([design](../designs/layers.md)). A room imports \
         only rooms of lower\nlayers; pure rooms are in brackets.\n\n```text\n{}```\n\n| room | subject | imports \
         |\n|---|---|---|\n",
        draw_layers()
    );
    for room in &ROOMS {
        let Room { name, subject, .. } = room;
        let imports: Vec<_> = room.imports().map(|import| format!("`{import}`")).collect();
        let imports = if imports.is_empty() { "–".to_owned() } else { imports.join(", ") };
        let pure = if room.pure { "**Pure.** " } else { "" };
        writeln!(section, "| `{name}` | {pure}{subject} | {imports} |").unwrap();
    }
    section +=
        "\nPure rooms have no async, no clock, no randomness and no I/O: time and new names are arguments.\n";
    section
}

#[test]
fn imports_follow_the_table_without_cycles() {
    let violations = Crate::read().violations();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn every_room_and_import_of_the_table_exists() {
    let code = Crate::read();
    let imports = code.room_imports();
    for room in &ROOMS {
        assert!(code.0.contains_key(&vec![room.name.to_owned()]), "room {} does not exist", room.name);
        let unused = room.imports().find(|to| !imports.contains_key(&(room.name, (*to).to_owned())));
        assert_eq!(unused, None, "{} does not import it", room.name);
    }
}

#[test]
fn docs_rooms_equal_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/develop/architecture.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("## Rooms\n").unwrap();
    let (_, after) = rest.split_once("\n## ").unwrap();
    let expected = format!("{before}{}\n## {after}", section());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/develop/architecture.md differs: UPDATE=1 cargo test --test architecture"
    );
}

#[test]
fn finds_planted_violations() {
    let files = [
        ("src/fleet/mod.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod proof;\npub use a::{A, Other as Another};\n"),
        (
            "src/fleet/a.rs",
            "use std::fmt;\n\nuse super::b::{self, B};\nuse crate::{\n    catalog::Offer,\n    control::{FleetHandle, FleetWriter},\n};\n",
        ),
        (
            "src/fleet/b.rs",
            "// crate::vpsie::Client\nfn now() -> super::Another {\n    Timestamp::now()\n}\n",
        ),
        ("src/fleet/proof.rs", "use crate::cli::Cli;\n"),
        ("src/catalog/mod.rs", "pub struct Offer;\n#[cfg(test)]\nmod tests {\n    use crate::fleet::A;\n}\n"),
        ("src/control/mod.rs", "use crate::fleet::A;\n"),
        ("src/attic.rs", "use crate::catalog::Offer;\n"),
    ];
    let code = Crate::new(files.map(|(file, text)| (file.to_owned(), text.to_owned())));
    assert_eq!(
        code.violations(),
        [
            "src/attic.rs: the table has no room attic",
            "src/fleet/a.rs: fleet must not import control",
            "src/fleet/b.rs: Timestamp::now in a pure room",
            "cycle: control -> fleet::a -> control",
            "cycle: fleet::a -> fleet::b -> fleet::a",
        ]
    );
}
