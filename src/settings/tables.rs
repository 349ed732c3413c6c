//! Tables: the documentation of settings, made of their definitions.
//!
//! It makes all of `docs/rot13d.toml`, and the parts of `docs/operating.md` between their marks. `ROT13D_BLESS=1 cargo
//! test -p rot13d --bin rot13d` writes both.

use std::{env, fmt::Write, fs};

use super::{
    ListenerSettings, Settings, is_of_listeners,
    listing::{TABLES, groups},
    setting::{About, Reload, Setting},
};

const BEGIN: &str = "<!-- settings: written by ROT13D_BLESS=1 cargo test -p rot13d --bin rot13d -->\n";
const END: &str = "<!-- /settings -->\n";
const BEGIN_LISTENERS: &str = "<!-- listeners: written by ROT13D_BLESS=1 cargo test -p rot13d --bin rot13d -->\n";
const END_LISTENERS: &str = "<!-- /listeners -->\n";

const EXAMPLE: &str = "\
# Settings of rot13d, each at its default: take away the # of those that you change.
#
#   rot13d --config rot13d.toml                  a flag overrules the file
#   rot13d --config rot13d.toml --check-config   checks the file
#   kill -HUP PID                                reads it again
#
# \"SIGHUP:\" says when a changed value holds: at once, for new connections, or at a restart; of files with secrets, what is
# in them.
";

const LISTENERS: &str = "
## Listeners
#
# Each has tables of its own, below all other keys:
";

/// Something to write where there is no default.
fn sample(setting: &Setting) -> &'static str {
    match (setting.about.group, setting.about.name) {
        ("[[listener]]", "name") => "\"public\"",
        (_, "address") => "\"0.0.0.0:40714\"",
        (_, "name") => "[\"example.org\", \"*.example.org\"]",
        ("[listener.tls]", "certificate") => "\"cert.pem\"",
        ("[listener.tls]", "key") => "\"key.pem\"",
        (_, "certificate") => "\"example.pem\"",
        (_, "key") => "\"example-key.pem\"",
        (group, name) => panic!("no sample of {group} {name}"),
    }
}

/// For Markdown: a table for each of a listener's, and the limits that it may have of its own.
fn manual_of_listeners() -> String {
    let mut text = String::new();
    for table in TABLES {
        write!(text, "\n**`{}`**\n\n| key | default | takes | use |\n|---|---|---|---|\n", table[0].about.group)
            .unwrap();
        for setting in table {
            let About { name, default, help, advice, .. } = setting.about;
            let defaults: Vec<_> = default.iter().map(|text| code(text)).collect();
            let default = if setting.is_required() { "required".to_owned() } else { defaults.join(", ") };
            writeln!(text, "| `{name}` | {default} | {} | {help}. {advice} |", takes(setting)).unwrap();
        }
    }
    let limits = Settings::ALL.iter().filter(|setting| is_of_listeners(setting));
    let limits: Vec<_> = limits.map(|setting| code(setting.about.name)).collect();
    write!(text, "\n**Limits of one listener**, as keys of `[[listener]]`: {}.\n", limits.join(", ")).unwrap();
    text
}

/// Describes the values that are allowed, in Markdown.
fn takes(setting: &Setting) -> String {
    setting.takes().replace(", or off", ", or `off`").replace(", or auto", ", or `auto`").replace('*', "\\*")
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
            let takes = takes(setting);
            let default = defaults.join(", ");
            let value = if setting.is_switch { String::new() } else { format!(" {value}") };
            let flag = format!("--{name}{value}").replace('|', "\\|");
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
                false if setting.is_switch => writeln!(text, "#{name} = {}", default.concat()).unwrap(),
                false => writeln!(text, "#{name} = {}", values.join(", ")).unwrap(),
            }
        }
    }
    text.push_str(LISTENERS);
    for table in TABLES {
        write!(text, "#\n#   {}\n", table[0].about.group).unwrap();
        for setting in table {
            let About { name, default, help, .. } = setting.about;
            let values: Vec<_> = default.iter().map(|value| toml_value(value)).collect();
            let value = match values.is_empty() {
                true => sample(setting).to_owned(),
                false if setting.is_list && default != ["off"] => format!("[{}]", values.join(", ")),
                false if setting.is_switch && default != ["off"] => default.concat(),
                false => values.join(", "),
            };
            for line in wrapped(&format!("{help}. Takes {}.", setting.takes()).replace('`', "")) {
                writeln!(text, "#   # {line}").unwrap();
            }
            writeln!(text, "#   {name} = {value}").unwrap();
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
        let (between, rest) = after.split_once(BEGIN_LISTENERS).expect("the mark before the tables of listeners");
        let (_, after) = rest.split_once(END_LISTENERS).expect("the mark behind the tables of listeners");
        let listeners = format!("{BEGIN_LISTENERS}{}\n{END_LISTENERS}", manual_of_listeners());
        format!("{before}{BEGIN}{}\n{END}{between}{listeners}{after}", manual())
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
fn the_example_file_has_each_key_of_a_listener() {
    let example = example();
    let (_, listener) = example.split_once("\n#   [[listener]]\n").unwrap();
    let listener: String =
        listener.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let written = crate::config::given(&format!("[[listener]]\n{listener}"));
    // Of the library there is no word about it before the files are loaded, except for what needs another key.
    assert!(written.is_ok(), "{written:?}\n{listener}");
    let keys = listener.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count();
    assert_eq!(keys, TABLES.iter().map(|table| table.len()).sum::<usize>());
}

#[test]
fn a_listener_may_have_limits_that_the_server_has() {
    let limits: Vec<_> = super::listener::LIMITS.concat();
    assert_eq!(Settings::ALL.iter().filter(|setting| is_of_listeners(setting)).count(), limits.len(), "{limits:?}");
    for setting in ListenerSettings::ALL {
        assert!(!Settings::ALL.iter().any(|other| other.about.name == setting.about.name), "{}", setting.about.name);
    }
}

#[test]
fn help_says_all_that_is_known_of_a_setting() {
    let mut command = <super::Given as clap::Args>::augment_args(clap::Command::new("rot13d")).term_width(10_000);
    let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
    for setting in Settings::ALL {
        let About { name, value, default, group, reload, help, advice, .. } = setting.about;
        let flag = match setting.is_switch {
            true => format!("--{name}[=<{value}>]"),
            false => format!("--{name} <{value}>"),
        };
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
