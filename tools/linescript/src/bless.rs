//! `linescript bless`: scripts get what came instead of what they expected, and what changes is printed.
//!
//! Not here: what becomes of a script (`actix_lines::script`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use actix_lines::script::BlessError;
use similar::{ChangeTag, TextDiff};

use crate::{
    FAILS, HOLDS, WRONG,
    args::{Given, Service},
    output, scripts,
};

/// How scripts are blessed.
#[derive(Debug, clap::Args)]
pub(crate) struct Bless {
    /// Scripts, and folders of `.session` files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    service: Service,
    /// Print what would change, and change nothing. Exit code 1 if something would.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    given: Given,
}

pub(crate) fn bless(args: &Bless) -> u8 {
    let options = args.given.options();
    let Some(options) = args.service.tls.add(options) else { return WRONG };
    let Ok(scripts) = scripts(&args.files, &options) else { return WRONG };
    let Some(target) = args.service.target(&scripts) else { return WRONG };
    let mut code = HOLDS;
    for (file, script) in &scripts {
        match script.bless(&target, &options) {
            Ok(blessed) if !blessed.is_changed => output::say(&format!("holds {file}")),
            Ok(blessed) => {
                // Read again: it may have changed meanwhile, and nobody's work is lost.
                let before = match fs::read_to_string(file) {
                    Ok(before) => before,
                    Err(error) => {
                        output::complain(&format!("cannot read {file} again: {error}"));
                        return WRONG;
                    }
                };
                if before != blessed.before {
                    output::complain(&format!("{file} has changed while it was run: it stays as it is"));
                    code = code.max(FAILS);
                    continue;
                }
                output::say(&difference(file, &before, &blessed.text));
                if args.check {
                    code = code.max(FAILS);
                    output::say(&format!("would bless {file}"));
                } else if let Err(error) = replace(Path::new(file), &blessed.text) {
                    output::complain(&format!("cannot write {file}: {error}"));
                    return WRONG;
                } else {
                    output::say(&format!("blessed {file}"));
                }
            }
            Err(BlessError::Skipped(reason)) => output::say(&format!("skip {file}: {reason}")),
            Err(error) => {
                code = code.max(FAILS);
                output::say(&format!("not blessed {file}"));
                output::say(&format!("{}\n", error.to_coloured_string()));
            }
        }
    }
    code
}

/// In the manner of `diff -u`, with colours.
fn difference(file: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut text = format!("--- {file}\n+++ {file}");
    for group in diff.grouped_ops(3) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (old, new) = (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
        text.push_str(&format!(
            "\n\x1b[36m@@ -{},{} +{},{} @@\x1b[0m",
            old.start + 1,
            old.len(),
            new.start + 1,
            new.len()
        ));
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let line = change.value().trim_end_matches(['\r', '\n']);
            text.push_str(&match change.tag() {
                ChangeTag::Equal => format!("\n {line}"),
                ChangeTag::Delete => format!("\n\x1b[31m-{line}\x1b[0m"),
                ChangeTag::Insert => format!("\n\x1b[32m+{line}\x1b[0m"),
            });
        }
    }
    text
}

/// All of the new text or all of the old, whatever happens: written beside it, and put in its place.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new: PathBuf = path.with_file_name(format!(".{name}.{}", process::id()));
    let written = fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::metadata(&path)?.permissions()))
        .and_then(|()| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
