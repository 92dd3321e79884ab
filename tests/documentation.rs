//! Checks the documentation: links and citations have a page and a heading as target, quoted names exist in
//! the code, and the lists of checks are complete.

// All code of this file is test code. clippy exempts only `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Files and folders whose text is read.
const PLACES: [&str; 16] = [
    ".ci",
    ".github",
    "benches",
    "build.rs",
    "Cargo.toml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "deployments",
    "docs",
    "justfile",
    "proto",
    "README.md",
    "RELEASE.md",
    "SECURITY.md",
    "src",
    "tests",
];
/// Prefix of links to files of this repository from outside of it, such as in alerts.
const FORGE: &str = "https://github.com/vpsie/vpsie-autoscaler/blob/main/";

/// The text files of the repository by their path in it.
struct Repository {
    files: BTreeMap<PathBuf, String>,
    folders: BTreeSet<PathBuf>,
}

impl Repository {
    fn read() -> Self {
        let mut read = Self { files: BTreeMap::new(), folders: BTreeSet::new() };
        for place in PLACES {
            read.add(Path::new(place));
        }
        assert!(read.files.len() > 100, "{} files", read.files.len());
        read
    }

    fn add(&mut self, path: &Path) {
        let on_disk = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if on_disk.is_dir() {
            if path.ends_with("target") || path.ends_with(".cache") {
                return;
            }
            self.folders.insert(path.to_owned());
            for entry in fs::read_dir(on_disk).unwrap() {
                self.add(&path.join(entry.unwrap().file_name()));
            }
        } else if on_disk.is_file() && path != Path::new(file!()) {
            let text = String::from_utf8(fs::read(on_disk).unwrap()).unwrap_or_default();
            self.files.insert(path.to_owned(), text);
        }
    }

    /// Broken links and citations of `text` at `path`, one line each.
    fn faults(&self, path: &Path, text: &str) -> Vec<String> {
        let mut targets = citations(text);
        if is_markdown(path) {
            targets.extend(links(text).into_iter().map(|link| relative(path, &link)));
        }
        let faults = targets.into_iter().filter_map(|target| Some((self.fault(&target)?, target)));
        faults.map(|(fault, target)| format!("{}: {target}: {fault}", path.display())).collect()
    }

    /// The problem of `target`, a path in the repository with or without `#heading`. None if it exists.
    fn fault(&self, target: &str) -> Option<String> {
        let (path, anchor) = target.split_once('#').map_or((target, None), |(path, to)| (path, Some(to)));
        let path = Path::new(path.trim_end_matches('/'));
        let Some(text) = self.files.get(path) else {
            let exists =
                self.folders.contains(path) || Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
            return (!exists || anchor.is_some()).then(|| "no such file".to_owned());
        };
        let anchor = anchor?;
        (is_markdown(path) && !anchors(text).contains(anchor)).then(|| format!("no heading #{anchor}"))
    }
}

fn is_markdown(path: &Path) -> bool {
    is_of_kind(path, "md")
}

fn is_of_kind(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|actual| actual == extension)
}

/// The lines of Markdown outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !fence && !in_code
    })
}

/// `line` without inline code.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of links to this repository in Markdown.
fn links(text: &str) -> Vec<String> {
    let lines: Vec<String> = prose(text).map(without_code).collect();
    let inline = lines.iter().flat_map(|line| {
        line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.trim().to_owned()))
    });
    let defined = lines.iter().filter(|line| line.starts_with('[')).filter_map(|line| {
        let (_, target) = line.split_once("]: ")?;
        Some(target.trim().to_owned())
    });
    inline.chain(defined).filter(|link| !link.contains("://") && !link.starts_with("mailto:")).collect()
}

/// A link of the file at `path` as a path in the repository.
fn relative(path: &Path, link: &str) -> String {
    let (to, anchor) = link.split_once('#').map_or((link, None), |(to, anchor)| (to, Some(anchor)));
    let joined = if to.is_empty() { path.to_owned() } else { path.parent().unwrap().join(to) };
    let mut plain = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{}: {link} leaves the repository", path.display()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    let plain = plain.to_str().unwrap();
    anchor.map_or_else(|| plain.to_owned(), |anchor| format!("{plain}#{anchor}"))
}

/// References of `text` to the documentation: paths `docs/…`, and URLs at the forge.
fn citations(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let mut found = Vec::new();
    for (at, _) in text.match_indices("docs/") {
        let before = &text[..at];
        if before.ends_with(is_path) && !before.ends_with(FORGE) {
            continue;
        }
        let rest = &text[at..];
        let path = &rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())];
        let after = &rest[path.len()..];
        let path = path.trim_end_matches('.');
        let anchor = after.strip_prefix('#').map(|anchor| {
            let end = anchor.find(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c));
            &anchor[..end.unwrap_or(anchor.len())]
        });
        found.push(anchor.map_or_else(|| path.to_owned(), |anchor| format!("{path}#{anchor}")));
    }
    found
}

/// The anchors of a page: those of headings, as the forge creates them, and explicit ones.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text) {
        if let Some(title) = line.starts_with('#').then(|| line.trim_start_matches('#')) {
            let slug = slug(title);
            let more = (1..).map(|number| format!("{slug}-{number}"));
            let free = std::iter::once(slug.clone()).chain(more).find(|name| !found.contains(name));
            found.extend(free);
        }
        found.extend(
            line.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
        );
    }
    found
}

fn slug(title: &str) -> String {
    let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_and_citations_have_targets() {
    let repository = Repository::read();
    let faults: Vec<_> =
        repository.files.iter().flat_map(|(path, text)| repository.faults(path, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn index_names_every_page() {
    let repository = Repository::read();
    let index = Path::new("docs/README.md");
    let named: BTreeSet<_> =
        links(&repository.files[index]).iter().map(|link| PathBuf::from(relative(index, link))).collect();
    let pages = repository.files.keys().filter(|path| path.starts_with("docs") && is_markdown(path));
    let missing: Vec<_> =
        pages.filter(|page| *page != index && page.ancestors().all(|part| !named.contains(part))).collect();
    assert!(missing.is_empty(), "not in {}: {missing:?}", index.display());
}

/// Texts of the tables of the troubleshooting page that the product does not have: texts of logs, audit log,
/// events and conditions must be in the code, metrics in the page about them.
fn missing_quotes(page: &str, code: &str, metrics: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for line in prose(page) {
        let mut cells = line.trim_start_matches('|').split('|').map(str::trim);
        let (Some(place), Some(words)) = (cells.next(), cells.next()) else { continue };
        let text = match place {
            "log" | "audit log" | "event" | "condition" => code,
            "metric" => metrics,
            _ => continue,
        };
        let quoted = words.split('`').skip(1).step_by(2);
        missing.extend(
            quoted.filter(|quoted| !text.contains(quoted)).map(|quoted| format!("{place}: {quoted}")),
        );
    }
    missing
}

#[test]
fn troubleshooting_quotes_existing_texts() {
    let repository = Repository::read();
    let text = |path: &str| repository.files[Path::new(path)].as_str();
    let sources = repository.files.iter().filter(|(path, _)| path.starts_with("src") && !is_markdown(path));
    // Joins texts that continue in the next line of the source.
    let code: String = sources.flat_map(|(_, text)| text.split("\\\n").map(str::trim_start)).collect();
    let page = text("docs/operate/troubleshooting.md");
    let missing = missing_quotes(page, &code, text("docs/reference/metrics.md"));
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(page.matches("| log |").count() > 20, "the form of the tables has changed");
    assert_eq!(missing_quotes("| log | `a` and `b` |", "has a", ""), ["log: b"]);
}

/// Items in links such as ``[`item`](path.rs)`` that the linked Rust file does not have.
fn missing_items(repository: &Repository, path: &Path, page: &str) -> Vec<String> {
    let named = prose(page).flat_map(|line| line.split("[`").skip(1)).filter_map(|rest| {
        let (item, rest) = rest.split_once("`](")?;
        Some((item, relative(path, rest.split_once(')')?.0)))
    });
    let items = named.filter(|(item, target)| is_of_kind(Path::new(target), "rs") && !item.contains('/'));
    let missing = items.filter(|(item, target)| {
        let text = repository.files.get(Path::new(target)).map_or("", String::as_str);
        ["fn", "struct", "enum", "trait"].iter().all(|kind| {
            let declared = format!("{kind} {item}");
            let after = |(at, _)| text[at + declared.len()..].chars().next();
            !text.match_indices(&declared).filter_map(after).any(|c| !c.is_alphanumeric() && c != '_')
        })
    });
    missing.map(|(item, target)| format!("{}: no {item} in {target}", path.display())).collect()
}

#[test]
fn named_items_are_in_the_linked_file() {
    let repository = Repository::read();
    let pages = repository.files.iter().filter(|(path, _)| is_markdown(path));
    let missing: Vec<_> = pages.flat_map(|(path, text)| missing_items(&repository, path, text)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    let planted = missing_items(
        &repository,
        Path::new("docs/x.md"),
        "[`mai`](../src/main.rs), [`main`](../src/main.rs)",
    );
    assert_eq!(planted, ["docs/x.md: no mai in src/main.rs"]);
}

/// Environment variables of libraries.
const LIBRARY_VARIABLES: [&str; 2] = ["SSL_CERT_DIR", "SSL_CERT_FILE"];

/// Unknown metrics of a page, and unknown codes such as `STOCKOUT`.
fn unknown_names(page: &str, code: &str, metrics: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = page.split(|c| !is_name(c));
    let metric_names = words.filter(|word| word.starts_with("vpsie_autoscaler_") && !metrics.contains(word));
    let quoted = prose(page).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_code =
        |word: &&str| word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let codes =
        quoted.filter(is_code).filter(|word| !code.contains(word) && !LIBRARY_VARIABLES.contains(word));
    metric_names.chain(codes).map(ToOwned::to_owned).collect()
}

#[test]
fn metrics_and_codes_in_pages_are_known() {
    let repository = Repository::read();
    let metrics = &repository.files[Path::new("docs/reference/metrics.md")];
    let is_code = |path: &&PathBuf| !is_markdown(path) && !path.starts_with("docs");
    let code: String =
        repository.files.keys().filter(is_code).map(|path| repository.files[path].as_str()).collect();
    let pages = repository.files.iter().filter(|(path, _)| is_markdown(path));
    let unknown = pages.map(|(path, page)| (path, unknown_names(page, &code, metrics)));
    let unknown: Vec<_> = unknown.filter(|(_, names)| !names.is_empty()).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    let planted = unknown_names("vpsie_autoscaler_nothing `NO_SUCH` `STOCK_OUT`", "STOCK_OUT", metrics);
    assert_eq!(Vec::from_iter(planted), ["NO_SUCH", "vpsie_autoscaler_nothing"]);
}

#[test]
fn pages_have_every_code_of_the_fleet() {
    let repository = Repository::read();
    let text = |path: &str| repository.files[Path::new(path)].as_str();
    let pages = [
        text("docs/reference/protocol.md"),
        text("docs/use/expander.md"),
        text("docs/operate/troubleshooting.md"),
    ];
    let is_code = |word: &&str| word.len() > 5 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let is_of_fleet = |path: &&PathBuf| path.parent() == Some(Path::new("src/fleet"));
    let sources = repository.files.keys().filter(is_of_fleet).map(|path| repository.files[path].as_str());
    let codes: BTreeSet<&str> = sources.flat_map(|text| text.split('"')).filter(is_code).collect();
    // Excludes serde's name for their case.
    let codes: BTreeSet<&str> = codes.into_iter().filter(|code| *code != "SCREAMING_SNAKE_CASE").collect();
    assert!(codes.len() > 10, "{codes:?}");
    let quoted = |code: &&str| pages.iter().any(|page| page.contains(&format!("`{code}`")));
    let missing: Vec<_> = codes.into_iter().filter(|code| !quoted(code)).collect();
    assert!(missing.is_empty(), "no page has {missing:?}");
}

#[test]
fn justfile_and_ci_run_have_every_check() {
    let repository = Repository::read();
    let text = |path: &str| repository.files[Path::new(path)].as_str();
    let run = text(".ci/run");
    let recipes = text("justfile");
    let defined = text(".ci/checks").lines().filter_map(|line| line.strip_prefix("check_"));
    let checks: Vec<&str> = defined.filter_map(|line| Some(line.split_once("()")?.0)).collect();
    assert!(checks.len() > 8, "{checks:?}");
    for check in checks {
        let is_recipe =
            |line: &str| line.strip_prefix(check).is_some_and(|rest| rest.starts_with([':', ' ']));
        assert!(recipes.lines().any(is_recipe), "justfile has no {check}");
        assert!(run.lines().any(|line| line.ends_with(&format!(" check_{check}"))), ".ci/run has no {check}");
    }
}

#[test]
fn planted_faults_are_found() {
    let repository = Repository::read();
    let place = "docs";
    let page = Path::new("docs/reference/planted.md");
    for (text, fault) in [
        ("see [x](missing.md)", "docs/reference/missing.md: no such file"),
        ("see [x](vpsie-api.md#missing)", "docs/reference/vpsie-api.md#missing: no heading #missing"),
        ("see [`x`](../../src/missing.rs)", "src/missing.rs: no such file"),
        ("[x]: missing.md", "docs/reference/missing.md: no such file"),
    ] {
        assert_eq!(repository.faults(page, text), [format!("{}: {fault}", page.display())]);
    }
    let code = Path::new("src/planted.rs");
    for (path, fault) in [
        ("missing.md", "missing.md: no such file"),
        ("reference/vpsie-api.md#missing", "reference/vpsie-api.md#missing: no heading #missing"),
    ] {
        for text in [format!("/// See {place}/{path}."), format!("url: {FORGE}{place}/{path}")] {
            assert_eq!(repository.faults(code, &text), [format!("{}: {place}/{fault}", code.display())]);
        }
    }
    for text in [
        "[x](vpsie-api.md#calls)",
        "[x](https://example.com/docs/x.md)",
        "`[x](y.md)`",
        "```\n[x](y.md)\n```",
    ] {
        assert_eq!(repository.faults(page, text), [""; 0]);
    }
}
