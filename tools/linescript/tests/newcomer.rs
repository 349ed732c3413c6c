//! What a newcomer is told is so: the first script of each page runs as the page says, and fails with the report that stands there.

use std::{fs, path::Path};

use support::{folder, linescript, rot13, stdout};

mod support;

/// The pages that have the first script. The report stands where there is room for it.
const PAGES: &[(&str, bool)] =
    &[("README.md", false), ("docs/sessions.md", true), ("tools/linescript/README.md", true)];
/// Where the pages have a server.
const SERVER: &str = "127.0.0.1:40713";

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of code of a page.
fn blocks(page: &str) -> Vec<&str> {
    page.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n').map(|(_, text)| text)).collect()
}

#[test]
fn the_first_script_of_each_page_holds_and_fails_as_the_page_says() {
    let server = rot13().to_string();
    for (name, has_report) in PAGES {
        let folder = folder(&format!("newcomer-{}", name.replace('/', "-")));
        let page = page(name);
        let blocks = blocks(&page);
        let find = |what: &str, is_it: &dyn Fn(&str) -> bool| {
            *blocks.iter().find(|block| is_it(block)).unwrap_or_else(|| panic!("{name} has no {what}"))
        };
        let script = find("first script", &|block| block.contains("> Hello, world\n< Uryyb, jbeyq\n: fin\n: eof"));
        fs::write(folder.join("hello.session"), format!("{script}\n")).unwrap();

        let console = find("command", &|block| block.contains("run hello.session"));
        let (_, rest) = console.split_once("run hello.session ").unwrap();
        let (options, output) = rest.split_once('\n').expect("what it says is below the command");
        let options = options.replace(SERVER, &server);
        let mut arguments = vec!["run", "hello.session"];
        arguments.extend(options.split(' '));
        let run = linescript(&folder, &arguments);
        assert_eq!((stdout(&run).trim_end(), run.status.code()), (output, Some(0)), "{name}");

        if *has_report {
            let broken = script.replace("< Uryyb, jbeyq", "< Uryyb, World");
            fs::write(folder.join("hello.session"), format!("{broken}\n")).unwrap();
            let report = find("report", &|block| block.starts_with("not ok hello.session\n"));
            let run = linescript(&folder, &arguments);
            assert_eq!((stdout(&run).trim_end(), run.status.code()), (report, Some(1)), "{name}");
        }
    }
}
