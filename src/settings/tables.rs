//! Tables: the documentation of settings, made of their definitions.
//!
//! It makes all of `docs/rot13d.toml`, and the part of `docs/operating.md` between its two marks. `ROT13D_BLESS=1 cargo
//! test -p rot13d --bin rot13d` writes both.

use std::{env, fmt::Write, fs};

use super::{
    Settings,
    setting::{About, Reload, Setting},
};

const BEGIN: &str = "<!-- settings: written by ROT13D_BLESS=1 cargo test -p rot13d --bin rot13d -->\n";
const END: &str = "<!-- /settings -->\n";

const EXAMPLE: &str = "\
# Settings of rot13d, each at its default: take away the # of those that you change.
#
#   rot13d --config rot13d.toml                  a flag overrules the file
#   rot13d --config rot13d.toml --check-config   checks the file
#   kill -HUP PID                                reads it again
#
# \"SIGHUP:\" says when a changed value holds: at once, for new connections, or at a restart.
";

/// The settings by their groups, in the order of help.
fn groups() -> impl Iterator<Item = &'static [Setting]> {
    Settings::ALL.chunk_by(|one, next| one.about.group == next.about.group)
}

/// For Markdown: a table for each group.
fn manual() -> String {
    let mut text = String::new();
    for group in groups() {
        let heading = group[0].about.group;
        write!(text, "\n**{heading}**\n\n| flag | default | takes | SIGHUP | use |\n|---|---|---|---|---|\n").unwrap();
        for setting in group {
            let About { name, value, reload, help, advice, .. } = setting.about;
            let defaults: Vec<_> = setting.about.default.iter().map(|text| code(text)).collect();
            let takes = setting.takes().replace(", or off", ", or `off`").replace(", or auto", ", or `auto`");
            let default = defaults.join(", ");
            let flag = format!("--{name} {value}").replace('|', "\\|");
            writeln!(text, "| `{flag}` | {default} | {takes} | {} | {help}. {advice} |", reload.words()).unwrap();
        }
    }
    text
}

fn code(text: &str) -> String {
    if text.is_empty() { "empty".to_owned() } else { format!("`{text}`") }
}

/// As TOML: every key at its default, with what it is for.
fn example() -> String {
    let mut text = EXAMPLE.to_owned();
    for group in groups() {
        write!(text, "\n## {}\n", group[0].about.group).unwrap();
        for setting in group {
            let About { name, default, reload, help, .. } = setting.about;
            let said = format!("{help}. Takes {}. SIGHUP: {}.", setting.takes(), reload.words());
            text.push('\n');
            for line in wrapped(&said.replace('`', "")) {
                writeln!(text, "# {line}").unwrap();
            }
            let values: Vec<_> = default.iter().map(|value| toml_value(value)).collect();
            match setting.is_list && default != ["off"] {
                true => writeln!(text, "#{name} = [{}]", values.join(", ")).unwrap(),
                false => writeln!(text, "#{name} = {}", values.join(", ")).unwrap(),
            }
        }
    }
    text
}

fn toml_value(text: &str) -> String {
    if text.parse::<i64>().is_ok() { text.to_owned() } else { format!("{text:?}") }
}

/// `text` in lines of at most 100 characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        match line.is_empty() {
            true => line.push_str(word),
            false if line.len() + 1 + word.len() <= 100 => write!(line, " {word}").unwrap(),
            false => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A file of the documentation, compared with what it should be, or made so.
fn compare(file: &str, expected: impl FnOnce(&str) -> String) {
    let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap();
    let expected = expected(&text);
    if env::var_os("ROT13D_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        let line = text.lines().zip(expected.lines()).position(|(is, should)| is != should);
        let line = line.unwrap_or_else(|| text.lines().count().min(expected.lines().count())) + 1;
        assert!(
            text == expected,
            "docs/{file} differs from the settings in line {line}: ROT13D_BLESS=1 cargo test -p rot13d --bin rot13d"
        );
    }
}

#[test]
fn the_manual_says_of_settings_what_the_server_does() {
    compare("operating.md", |text| {
        let (before, rest) = text.split_once(BEGIN).expect("the mark before the tables");
        let (_, after) = rest.split_once(END).expect("the mark behind the tables");
        format!("{before}{BEGIN}{}\n{END}{after}", manual())
    });
}

#[test]
fn the_example_file_has_each_setting_at_its_default() {
    compare("rot13d.toml", |_| example());
    let keys: String = example()
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|key| key.contains(" = ") && !key.starts_with(' ')))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(keys.lines().count(), Settings::ALL.len());
    let spelled_out = crate::config::given(&keys).unwrap();
    assert_eq!(Settings::new(&spelled_out), Settings::new(&Default::default()));
}

#[test]
fn help_says_all_that_is_known_of_a_setting() {
    let mut command = <super::Given as clap::Args>::augment_args(clap::Command::new("rot13d")).term_width(10_000);
    let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
    for setting in Settings::ALL {
        let About { name, value, default, group, reload, help, advice, .. } = setting.about;
        let flag = format!("--{name} <{value}>");
        for text in [&flag, help, &format!("[default: {}", default.join(", ")), &format!("{group}:\n")] {
            assert!(short.contains(&text.replace('`', "")), "{name}: {text} is not in\n{short}");
        }
        let change = if reload == Reload::Restart { "Only a restart" } else { reload.words() };
        for text in [&flag, help, advice, &setting.takes(), change, &default.join(", ")] {
            assert!(long.contains(&text.replace('`', "")), "{name}: {text} is not in\n{long}");
        }
    }
    let groups: Vec<_> = groups().map(|group| group[0].about.group).collect();
    let mut distinct = groups.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), groups.len(), "those of a group stand together: {groups:?}");
}
