//! A relative link in a page leads to a file of the repository.
//!
//! Not here: links to other sites, which come and go by themselves, and places within a page.

#[path = "support/files.rs"]
mod files;

use std::{fs, path::Path};

/// Where the links of a text lead, code left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| prose.split("](").skip(1));
    targets.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[test]
fn every_relative_link_of_a_page_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut looked_at = 0;
    for page in files::below(root, "md") {
        let text = fs::read_to_string(&page).unwrap();
        for target in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            // `crate::Item` is rustdoc's to check.
            if file.is_empty() || target.contains("://") || target.contains("::") {
                continue;
            }
            looked_at += 1;
            assert!(page.with_file_name(file).exists(), "{}: {target} is not there", page.display());
        }
    }
    assert!(looked_at > 50, "only {looked_at} links were found: are they written in another way?");
}
