//! The public surface of the library: every name and signature that a user can write is in `surface.txt`.
//!
//! A change of it is a change of that file, so that nobody makes one without seeing it. It is read from the documentation that
//! rustdoc makes: what a user sees there is what there is. Not here: what the names mean (their docs).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const BLESS: &str = "ACTIX_LINES_BLESS=1 cargo test -p actix-lines --test surface -- --ignored";

/// The declaration of each public item and what else its page has: methods, constants, implementations.
type Items = BTreeMap<String, Vec<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Has rustdoc write the pages; returns where.
fn document() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("surface");
    let pages = target.join("doc/actix_lines");
    // What is no more has no page.
    let _ = fs::remove_dir_all(&pages);
    let cargo = Command::new(env!("CARGO"))
        .args(["doc", "--package", "actix-lines", "--no-deps", "--all-features", "--locked", "--quiet"])
        .arg("--target-dir")
        .arg(&target)
        // What it depends on is looked up where everything else is built, by a cargo that knows of such a place.
        .env("CARGO_BUILD_BUILD_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory"))
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(cargo.status.success(), "cargo doc: {}", String::from_utf8_lossy(&cargo.stderr));
    pages
}

/// What stands between two marks, each time.
fn between<'a>(mut text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    std::iter::from_fn(move || {
        let (_, rest) = text.split_once(open)?;
        let (inner, rest) = rest.split_once(close)?;
        text = rest;
        Some(inner)
    })
}

/// The text of some HTML in one line.
fn text(html: &str) -> String {
    let mut plain = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        plain.push_str(before);
        let (name, after) = tag.split_once('>').unwrap_or((tag, ""));
        // Their words are rustdoc's.
        rest = if name.starts_with("summary") {
            after.split_once("</summary>").map_or(after, |(_, rest)| rest)
        } else {
            after
        };
        if name.starts_with("/div") || name.starts_with("div") || name.starts_with("br") {
            plain.push(' ');
        }
    }
    plain.push_str(rest);
    let plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    plain.replace("&amp;", "&").replace('\u{a7}', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn item(page: &str) -> Vec<String> {
    // What every type has, or what follows from its parts, is nobody's choice.
    let own = ["id=\"synthetic-implementations\"", "id=\"blanket-implementations\""];
    let own = own.iter().fold(page, |page, mark| page.split(mark).next().unwrap_or(page));
    let (_, own) = own.split_once("id=\"main-content\"").unwrap_or(("", own));
    // Nor are the methods of what it derefs to.
    let (own, derefs) = own.split_once("id=\"deref-methods").unwrap_or((own, ""));
    let traits = derefs.split_once("id=\"trait-implementations\"").map_or("", |(_, traits)| traits);
    let own = &[own, traits].concat();
    let declared = between(own, "<pre class=\"rust item-decl\">", "</pre>").map(text).map(|line| {
        // A trait's methods come with their own headers.
        if line.contains("pub trait ") { line.split(" {").next().unwrap_or(&line).to_owned() } else { line }
    });
    let sections = between(own, "<section id=\"", "</section>").filter_map(|section| {
        let (_, rest) = section.split_once("class=\"")?;
        let (class, rest) = rest.split_once('"')?;
        // The methods of a trait are the trait's, not the type's.
        let is_own = ["impl", "method", "tymethod", "associatedconstant", "associatedtype"].contains(&class);
        let header = between(rest, "class=\"code-header\">", "</h").next().filter(|_| is_own)?;
        Some(text(header))
    });
    // An inherent implementation is said by its methods.
    let is_said = |line: &String| !line.starts_with("impl") || line.contains(" for ");
    declared.chain(sections.filter(is_said)).filter(|line| !line.starts_with("impl StructuralPartialEq")).collect()
}

/// Reads the pages of a module and of those below.
fn read(pages: &Path, module: &str, items: &mut Items) {
    let mut entries: Vec<_> =
        fs::read_dir(pages).expect("rustdoc made pages").map(|entry| entry.expect("a page")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("UTF-8");
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{module}::{name}"), items);
        } else if let Some((kind, rest)) = name.split_once('.')
            && let Some(name) = rest.strip_suffix(".html")
            && ["struct", "enum", "trait", "fn", "constant", "macro", "type"].contains(&kind)
        {
            let page = fs::read_to_string(entry.path()).expect("UTF-8");
            // Of a private module there is only a page that leads elsewhere.
            let lines = item(&page);
            if !lines.is_empty() {
                items.insert(format!("{module}::{name}"), lines);
            }
        }
    }
}

/// Names of types in signatures that are not the library's own.
fn foreign(items: &Items) -> BTreeSet<String> {
    let own: BTreeSet<_> = items.keys().filter_map(|path| path.rsplit("::").next()).collect();
    let lines = items.values().flatten().map(|line| match line.split_once("pub enum ") {
        // Variants are the library's own, but not their fields.
        Some((_, variants)) => {
            let named = variants.split(": ").skip(1).filter_map(|field| field.split(',').next());
            between(variants, "(", ")").chain(named).collect::<Vec<_>>().join(" ")
        }
        None => line.clone(),
    });
    let is_type = |word: &&str| {
        word.len() > 1
            && word.starts_with(char::is_uppercase)
            && word.contains(char::is_lowercase)
            && !["Self", "Item", "Target", "Output", "Context", "Error", "Required", "Provided"].contains(word)
    };
    let words = |line: String| {
        let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        words.filter(is_type).filter(|word| !own.contains(word)).map(str::to_owned).collect::<Vec<_>>()
    };
    lines.flat_map(words).collect()
}

fn surface() -> String {
    let mut items = Items::new();
    read(&document(), "actix_lines", &mut items);
    let foreign = foreign(&items).into_iter().collect::<Vec<_>>().join(" ");
    let mut surface = format!("Types of std and of other crates: {foreign}\n");
    for (path, lines) in items {
        surface.push_str(&format!("\n{path}\n"));
        lines.iter().for_each(|line| surface.push_str(&format!("    {line}\n")));
    }
    surface
}

#[test]
#[ignore = "takes a minute, in which rustdoc writes the documentation; tests/run runs it"]
fn each_public_name_and_signature_is_listed() {
    let file = root().join("tests/surface.txt");
    let now = surface();
    if env::var_os("ACTIX_LINES_BLESS").is_some() {
        fs::write(&file, now).expect("the list can be written");
        return;
    }
    let listed = fs::read_to_string(&file).unwrap_or_default();
    let (now_lines, listed_lines): (Vec<_>, Vec<_>) = (now.lines().collect(), listed.lines().collect());
    let added: Vec<_> = now_lines.iter().filter(|line| !listed_lines.contains(line)).collect();
    let gone: Vec<_> = listed_lines.iter().filter(|line| !now_lines.contains(line)).collect();
    assert!(
        now == listed,
        "the public surface is another than {} says.\nnew: {added:#?}\ngone: {gone:#?}\nIf that is meant: {BLESS}, and a line in \
         CHANGELOG.md",
        file.display()
    );
}

#[test]
fn signatures_are_read_from_what_rustdoc_writes() {
    let page = r##"<pre class="rust item-decl"><code><div class="code-attribute">#[non_exhaustive]</div>pub enum Half {
        <details class="toggle"><summary class="hideme"><span>Show 2 variants</span></summary>Read,</details>}</code></pre>
        <section id="method.get" class="method"><h4 class="code-header">pub fn <a>get</a>(&amp;self) -&gt; &amp;[<a>u8</a>]</h4></section>
        <section id="impl-Half" class="impl"><h3 class="code-header">impl Half</h3></section>
        <section id="impl-Display-for-Half" class="impl"><h3 class="code-header">impl Display for Half</h3></section>
        <section id="method.fmt" class="method trait-impl"><h4 class="code-header">fn fmt(&amp;self)</h4></section>
        <h2 id="synthetic-implementations">Auto</h2>
        <section id="impl-Send-for-Half" class="impl"><h3 class="code-header">impl Send for Half</h3></section>"##;
    let lines = ["#[non_exhaustive] pub enum Half { Read,}", "pub fn get(&self) -> &[u8]", "impl Display for Half"];
    assert_eq!(item(page), lines);
    let items = Items::from([("actix_lines::Half".to_owned(), lines.map(str::to_owned).to_vec())]);
    assert_eq!(foreign(&items), BTreeSet::from(["Display".to_owned()]));
}
