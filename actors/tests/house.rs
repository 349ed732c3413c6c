//! The floors of the library: nothing imports upwards.
//!
//! Reads `src` as text and holds it against the rules of the house: each import names the module that defines the name, goes
//! down or stays on its floor, and is part of no circle; no file is long. Tests in `src` may import what they like.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write},
    fs,
    path::Path,
};

/// The floors, from the ground. A module stands on the floor of the longest name here that it begins with.
const FLOORS: &[&[&str]] = &[
    // Words: what everybody speaks in. And the wire.
    &[
        "address",
        "caught",
        "connection",
        "error",
        "escape",
        "framing",
        "gate",
        "log_limit",
        "logged",
        "names",
        "plural",
        "rate",
        "report",
        "room",
        "scan",
        "seconds",
        "shared",
        "shown",
        "source",
        "telnet_codes",
        "token",
        "units",
        "uplink",
        "wire",
    ],
    &["limits", "record"],
    // The control path, which holds no session.
    &["control"],
    &["control::ledger"],
    &["control::orders"],
    &["control::listeners", "control::questions", "control::workers"],
    &["control::ways"],
    &["control::supervisor"],
    &["words"],
    // The data path.
    &["worker", "listen"],
    &["session"],
    // Doors: where users come in.
    &["connect", "prelude", "rot13", "script", "server", "standalone", "testing"],
    // Users of the public surface.
    &["cluster"],
    &["metrics"],
    &["agent_check", "console", "http"],
];

/// No file is longer. Unit: lines.
const MAX_LINES: usize = 800;

/// Imports that break a rule, until somebody mends them: `(importing module, imported module)`. One that breaks none any
/// more has to go from here.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// A path in the code that begins at the crate's root.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    path: Vec<String>,
}

/// A source file: its module's name, as `control::ledger`, and what it imports outside of tests.
struct Module {
    file: String,
    lines: usize,
    imports: Vec<Import>,
    /// Lines that go to the folder above by `super`.
    relative: Vec<usize>,
    /// There is nothing in it but names of modules and of what is passed on.
    is_facade: bool,
}

struct House {
    modules: BTreeMap<String, Module>,
    exceptions: Vec<(String, String)>,
}

/// A rule that an import breaks.
struct Breach {
    from: String,
    to: String,
    text: String,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crate::{}", self.path.join("::"))
    }
}

/// The code without its comments, and with nothing in its literals. Lines stay where they are.
fn without_words(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let mut at = 0;
    while at < chars.len() {
        let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let raw_hashes = chars[at..].iter().skip(1).take_while(|c| **c == '#').count();
        let end = if starts(at, "//") {
            (at..chars.len()).find(|end| chars[*end] == '\n').unwrap_or(chars.len())
        } else if starts(at, "/*") {
            let mut depth = 0;
            let mut end = at;
            loop {
                if starts(end, "/*") {
                    depth += 1;
                    end += 2;
                } else if starts(end, "*/") {
                    depth -= 1;
                    end += 2;
                } else {
                    end += 1;
                }
                if depth == 0 || end >= chars.len() {
                    break end.min(chars.len());
                }
            }
        } else if chars[at] == 'r' && !after_word && chars.get(at + 1 + raw_hashes) == Some(&'"') {
            let close: String = std::iter::once('"').chain((0..raw_hashes).map(|_| '#')).collect();
            let body = at + raw_hashes + 2;
            (body..chars.len()).find(|end| starts(*end, &close)).map_or(chars.len(), |end| end + close.len())
        } else if chars[at] == '"' {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            (end + 1).min(chars.len())
        } else if chars[at] == '\'' && (starts(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
            // A character, and no lifetime.
            (at + 3..chars.len()).find(|end| chars[*end - 1] == '\'').unwrap_or(chars.len())
        } else {
            code.push(chars[at]);
            at += 1;
            continue;
        };
        code.extend(chars[at..end].iter().copied().map(blank));
        at = end;
    }
    code
}

/// The code without what is only compiled for tests, as far as an attribute of its own says so.
fn without_tests(code: &str) -> String {
    const TEST: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(TEST) {
        kept.push_str(&rest[..at]);
        let mut depth = 0;
        let end = rest[at + TEST.len()..].char_indices().find_map(|(end, c)| {
            depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
            (depth == 0 && ";,}".contains(c)).then_some(at + TEST.len() + end + 1)
        });
        let end = end.unwrap_or(rest.len());
        kept.extend(rest[at..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    kept + rest
}

/// The modules that are only there for tests, by the code that names them.
fn test_modules(code: &str) -> impl Iterator<Item = &str> {
    let after = code.split("#[cfg(test)]").skip(1).map(str::trim_start);
    after
        .filter_map(|item| item.strip_prefix("mod ")?.split_once(';').map(|(name, _)| name))
        .filter(|name| !name.contains('{'))
}

/// The lines with a path by way of `super` that leaves the file.
fn relative_paths(code: &str) -> Vec<usize> {
    let mut inner = 0;
    let mut depth: usize = 0;
    let mut lines = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if line.contains("super::") && inner == 0 {
            lines.push(number + 1);
        }
        let is_module = line.trim_end().ends_with('{') && line.split_whitespace().any(|word| word == "mod");
        for c in line.chars() {
            depth = if c == '}' { depth.saturating_sub(1) } else { depth + usize::from(c == '{') };
        }
        if is_module && inner == 0 {
            inner = depth;
        } else if depth < inner {
            inner = 0;
        }
    }
    lines
}

/// Reads the tree of names at the beginning of `code`, which follows `prefix`; returns what is behind it.
fn read_tree<'a>(mut code: &'a str, prefix: &[String], found: &mut Vec<(&'a str, Vec<String>)>) -> &'a str {
    let mut path = prefix.to_vec();
    loop {
        code = code.trim_start();
        if let Some(group) = code.strip_prefix('{') {
            code = group.trim_start();
            while !code.is_empty() && !code.starts_with('}') {
                code = read_tree(code, &path, found).trim_start();
                code = code.strip_prefix(',').unwrap_or(code).trim_start();
            }
            return code.strip_prefix('}').unwrap_or(code);
        }
        let name_end = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(code.len());
        let (name, rest) = code.split_at(name_end);
        if name.is_empty() {
            // Generic arguments of the last name.
            found.push((code, path));
            return code;
        }
        if name != "self" {
            path.push(name.to_owned());
        }
        let Some(next) = rest.trim_start().strip_prefix("::") else {
            found.push((code, path));
            let renamed = rest.trim_start().strip_prefix("as ").map(str::trim_start);
            return renamed.map_or(rest, |name| name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
        };
        code = next;
    }
}

fn imports(code: &str) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("crate::") {
        let is_word = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let tree = &rest[at + "crate::".len()..];
        rest = tree;
        if is_word {
            continue;
        }
        let mut found = Vec::new();
        rest = read_tree(tree, &[], &mut found);
        imports.extend(
            found.into_iter().map(|(behind, path)| Import {
                line: code[..code.len() - behind.len()].matches('\n').count() + 1,
                path,
            }),
        );
    }
    imports
}

impl House {
    /// Reads the files of a crate: their paths below `src`, and their text.
    fn new(files: Vec<(String, String)>, exceptions: &[(&str, &str)]) -> Self {
        let name_of = |file: &str| file.trim_end_matches(".rs").replace('/', "::");
        let for_tests: BTreeSet<String> = files
            .iter()
            .flat_map(|(file, source)| {
                let parent = Some(name_of(file)).filter(|name| name != "lib");
                let code = without_words(source);
                let names: Vec<_> = test_modules(&code).map(str::to_owned).collect();
                names
                    .into_iter()
                    .map(move |name| parent.iter().map(|parent| format!("{parent}::")).collect::<String>() + &name)
            })
            .collect();
        let mut modules = BTreeMap::new();
        for (file, source) in files {
            let name = name_of(&file);
            if name == "lib" || for_tests.contains(&name) {
                continue;
            }
            let code = without_tests(&without_words(&source));
            let is_facade = code.split(';').map(str::trim).all(|item| {
                let item = item.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                item.is_empty() || item.starts_with("mod ") || item.starts_with("use ")
            });
            let (imports, relative) = (imports(&code), relative_paths(&code));
            let module = Module { file, lines: source.lines().count(), imports, relative, is_facade };
            modules.insert(name, module);
        }
        let exceptions = exceptions.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Self { modules, exceptions }
    }

    /// The module that a path leads to, and whether there is more of the path behind it.
    fn target(&self, path: &[String]) -> Option<(String, bool)> {
        let names = (1..=path.len()).rev().map(|count| (path[..count].join("::"), count < path.len()));
        names.into_iter().find(|(name, _)| self.modules.contains_key(name))
    }

    /// Imports that lead from one module to another: who imports, what, and where that is.
    fn edges(&self) -> impl Iterator<Item = (&str, &Import, String)> {
        self.modules.iter().flat_map(move |(from, module)| {
            let targets = module.imports.iter().filter_map(move |import| {
                let (to, _) = self.target(&import.path)?;
                (to != *from).then_some((from.as_str(), import, to))
            });
            // A facade may pass on what is in its folder: nobody goes through it.
            let is_passed_on = |from: &str, to: &str| {
                self.modules[from].is_facade && to.strip_prefix(from).is_some_and(|rest| rest.starts_with("::"))
            };
            targets.filter(move |(from, _, to)| !self.modules[to].is_facade && !is_passed_on(from, to))
        })
    }

    fn place(&self, from: &str, import: &Import) -> String {
        format!("src/{}:{}: {import}", self.modules[from].file, import.line)
    }

    fn roots(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (from, module) in &self.modules {
            let relative = module.relative.iter().map(|line| format!("src/{}:{line}: super", module.file));
            broken.extend(
                relative.map(|place| format!("{place} leads out of the file: import from the crate's root on")),
            );
            for import in &module.imports {
                let place = self.place(from, import);
                match self.target(&import.path) {
                    None => broken.push(format!("{place} is the crate's root: import from the module that defines it")),
                    Some((to, true)) if self.modules[&to].is_facade => {
                        broken
                            .push(format!("{place} only passes through {to}: import from the module that defines it"));
                    }
                    Some(_) => {}
                }
            }
        }
        broken
    }

    fn floor(name: &str) -> Option<usize> {
        let known = FLOORS.iter().enumerate().flat_map(|(floor, names)| names.iter().map(move |known| (floor, *known)));
        let is_in = |known: &str| name == known || name.strip_prefix(known).is_some_and(|rest| rest.starts_with("::"));
        known.filter(|(_, known)| is_in(known)).max_by_key(|(_, known)| known.len()).map(|(floor, _)| floor)
    }

    fn homeless(&self) -> Vec<String> {
        let homeless = self.modules.iter().filter(|(name, _)| Self::floor(name).is_none());
        homeless.map(|(_, module)| format!("src/{}: on no floor: add it to FLOORS in this test", module.file)).collect()
    }

    fn upwards(&self) -> Vec<Breach> {
        let edges = self.edges().filter(|(from, _, to)| Self::floor(from) < Self::floor(to));
        edges
            .map(|(from, import, to)| Breach {
                from: from.to_owned(),
                text: format!(
                    "{} is upwards, to {to}: move what is needed down to the floor of {from}, or have it passed in",
                    self.place(from, import)
                ),
                to,
            })
            .collect()
    }

    /// Every import that is part of a circle, with the shortest way back. One that goes upwards makes none of others.
    fn circles(&self) -> Vec<Breach> {
        let edges: Vec<_> = self.edges().filter(|(from, _, to)| Self::floor(from) >= Self::floor(to)).collect();
        let mut breaches = Vec::new();
        for (from, import, to) in &edges {
            let mut came_from = BTreeMap::from([(to.as_str(), None)]);
            let mut next = VecDeque::from([to.as_str()]);
            while let Some(at) = next.pop_front() {
                for (_, _, beyond) in edges.iter().filter(|(from, _, _)| *from == at) {
                    if !came_from.contains_key(beyond.as_str()) {
                        came_from.insert(beyond, Some(at));
                        next.push_back(beyond);
                    }
                }
            }
            if came_from.contains_key(from) {
                let mut back = vec![*from];
                while let Some(Some(before)) = came_from.get(back[back.len() - 1]) {
                    back.push(before);
                }
                back.reverse();
                let text = format!(
                    "{} is part of a circle: {from} -> {}: put what both need into a module below them",
                    self.place(from, import),
                    back.join(" -> ")
                );
                breaches.push(Breach { from: (*from).to_owned(), to: to.clone(), text });
            }
        }
        breaches
    }

    fn not_excused(&self, breaches: Vec<Breach>) -> Vec<String> {
        let is_excused =
            |breach: &Breach| self.exceptions.iter().any(|(from, to)| *from == breach.from && *to == breach.to);
        breaches.into_iter().filter(|breach| !is_excused(breach)).map(|breach| breach.text).collect()
    }

    fn needless_exceptions(&self) -> Vec<String> {
        let breaches: Vec<_> = self.upwards().into_iter().chain(self.circles()).collect();
        let is_needed = |from: &str, to: &str| breaches.iter().any(|breach| breach.from == from && breach.to == to);
        let needless = self.exceptions.iter().filter(|(from, to)| !is_needed(from, to));
        needless
            .map(|(from, to)| format!("{from} -> {to} breaks no rule any more: remove it from EXCEPTIONS"))
            .collect()
    }

    fn long_files(&self) -> Vec<String> {
        let long = self.modules.values().filter(|module| module.lines > MAX_LINES);
        long.map(|module| {
            let Module { file, lines, .. } = module;
            format!("src/{file}: {lines} lines, more than {MAX_LINES}: make a folder of the same name, a file for each concern")
        })
        .collect()
    }

    fn mod_files(&self) -> Vec<String> {
        let files = self.modules.values().filter(|module| module.file.ends_with("mod.rs"));
        files.map(|module| format!("src/{}: name it after its folder, beside it", module.file)).collect()
    }
}

fn read_folder(folder: &Path, below: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("src is there") {
        let path = entry.expect("a folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
        if path.is_dir() {
            read_folder(&path, &format!("{below}{name}/"), files);
        } else if name.ends_with(".rs") {
            files.push((format!("{below}{name}"), fs::read_to_string(&path).expect("sources are UTF-8")));
        }
    }
}

fn our_house() -> House {
    let mut files = Vec::new();
    read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    House::new(files, EXCEPTIONS)
}

#[track_caller]
fn assert_none(broken: &[String]) {
    let list = broken.iter().fold(String::new(), |mut list, line| {
        let _ = write!(list, "\n  {line}");
        list
    });
    assert!(broken.is_empty(), "{} broken:{list}", broken.len());
}

#[test]
fn each_import_names_the_module_that_defines_the_name() {
    assert_none(&our_house().roots());
}

#[test]
fn each_module_stands_on_a_floor_and_imports_nothing_from_above() {
    let house = our_house();
    assert_none(&house.homeless());
    assert_none(&house.not_excused(house.upwards()));
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let house = our_house();
    assert_none(&house.not_excused(house.circles()));
}

#[test]
fn exceptions_go_when_they_are_not_needed_any_more() {
    assert_none(&our_house().needless_exceptions());
}

#[test]
fn no_file_is_long_and_none_is_called_mod() {
    let house = our_house();
    assert_none(&house.long_files());
    assert_none(&house.mod_files());
}

fn house(files: &[(&str, &str)], exceptions: &[(&str, &str)]) -> House {
    House::new(files.iter().map(|(file, source)| ((*file).to_owned(), (*source).to_owned())).collect(), exceptions)
}

#[track_caller]
fn assert_broken(broken: &[String], expected: &[&str]) {
    assert_eq!(broken.len(), expected.len(), "{broken:#?}");
    for (broken, expected) in broken.iter().zip(expected) {
        assert!(broken.starts_with(expected), "{broken}");
    }
}

#[test]
fn imports_are_found_wherever_they_stand_but_in_words_and_tests() {
    let source = r##"
//! `crate::comment::Name`
use crate::{
    a::{self, b::C as D},
    e::*,
};
/* crate::block /* crate::nested */ crate::comment */
fn f<'a>(x: &'a str, c: char) -> crate::g::H<'a> {
    let (quote, text, raw) = ('"', "crate::text::\"Name", r#"crate::raw::"Name""#);
    my_crate::not::Ours::new(crate::i::j::<crate::k::L>());
    #[cfg(test)]
    self.looked_at.set(crate::test::COUNT, [1, 2]);
    crate::m::N
}
#[cfg(test)]
mod tests {
    use crate::test::Name;
}
"##;
    let found = imports(&without_tests(&without_words(source)));
    let found: Vec<_> = found.iter().map(|import| format!("{}: {import}", import.line)).collect();
    let expected = [
        "4: crate::a",
        "4: crate::a::b::C",
        "5: crate::e::*",
        "8: crate::g::H",
        "10: crate::i::j",
        "10: crate::k::L",
        "13: crate::m::N",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_import_from_the_root_or_by_way_of_a_facade_is_found() {
    let house = house(
        &[
            ("lib.rs", "mod wire; pub use crate::wire::tcp::Tcp;"),
            ("wire.rs", "pub(crate) mod tcp;\npub(crate) use self::tcp::Tcp;"),
            ("wire/tcp.rs", "pub struct Tcp;\nmod inner {\n    use super::Tcp;\n}\nuse super::filter::Filter;"),
            ("room.rs", "use crate::wire::tcp::Tcp;\nuse crate::Tcp as Root;\nuse crate::wire::Tcp as Facade;"),
        ],
        &[],
    );
    assert_broken(
        &house.roots(),
        &[
            "src/room.rs:2: crate::Tcp is the crate's root",
            "src/room.rs:3: crate::wire::Tcp only passes through wire",
            "src/wire/tcp.rs:5: super leads out of the file",
        ],
    );
}

#[test]
fn an_import_upwards_is_found_and_so_is_a_module_without_a_floor() {
    let files = [
        ("lib.rs", "#[cfg(test)]\nmod only_for_tests;"),
        ("only_for_tests.rs", "use crate::server::Name;"),
        ("server.rs", "pub struct Name; use crate::control::ledger::Ledger;"),
        ("control.rs", "pub(crate) mod ledger;\npub(crate) mod stats;"),
        ("control/ledger.rs", "pub struct Ledger; use crate::control::stats::Stats;"),
        (
            "control/stats.rs",
            "pub struct Stats;\nfn f() -> crate::server::Name { loop {} }\nuse crate::control::ledger::Ledger;",
        ),
        ("attic.rs", "use crate::server::Name;"),
    ];
    let found = house(&files, &[]);
    assert_broken(&found.homeless(), &["src/attic.rs: on no floor"]);
    let expected = [
        "src/attic.rs:1: crate::server::Name is upwards, to server",
        "src/control/stats.rs:2: crate::server::Name is upwards, to server",
        "src/control/stats.rs:3: crate::control::ledger::Ledger is upwards, to control::ledger",
    ];
    assert_broken(&found.not_excused(found.upwards()), &expected);
    let excused = house(&files, &[("control::stats", "server"), ("server", "attic")]);
    assert_broken(&excused.not_excused(excused.upwards()), &[expected[0], expected[2]]);
    assert_broken(&excused.needless_exceptions(), &["server -> attic breaks no rule any more"]);
}

#[test]
fn a_circle_is_found_with_its_way_back() {
    let house = house(
        &[
            ("lib.rs", ""),
            ("rate.rs", "use crate::room::Room; use crate::scan::Scan; pub struct Rate;"),
            ("room.rs", "use crate::report::Report;\npub struct Room;"),
            ("report.rs", "use crate::rate::Rate;\npub struct Report; use crate::report::Own;"),
            ("scan.rs", "#[cfg(test)]\nmod tests { use crate::rate::Rate; }\npub struct Scan;"),
        ],
        &[],
    );
    assert_broken(
        &house.not_excused(house.circles()),
        &[
            "src/rate.rs:1: crate::room::Room is part of a circle: rate -> room -> report -> rate",
            "src/report.rs:1: crate::rate::Rate is part of a circle: report -> rate -> room -> report",
            "src/room.rs:1: crate::report::Report is part of a circle: room -> report -> rate -> room",
        ],
    );
}

#[test]
fn a_long_file_is_found_and_so_is_one_called_mod() {
    let long = "\n".repeat(MAX_LINES + 1);
    let house = house(&[("rate.rs", &long), ("room.rs", &long[1..]), ("wire/mod.rs", "")], &[]);
    assert_broken(&house.long_files(), &["src/rate.rs: 801 lines, more than 800"]);
    assert_broken(&house.mod_files(), &["src/wire/mod.rs: name it after its folder"]);
}
