//! Generate: man pages and shell completions, for packages.
//!
//! Rule: all of it is made of the arguments and the list of settings; nothing is said twice.
//! Not here: where a package puts the files (`packaging/stage`).

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

#[cfg(feature = "console")]
use actix_lines::console;
#[cfg(feature = "console")]
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use crate::{
    args::Args,
    reason::reason,
    settings::{
        Settings, is_of_listeners,
        listing::{TABLES, groups},
    },
};

const SOURCE: &str = concat!("rot13d ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "rot13d manual";
const SEE_ALSO: &str = ".SH SEE ALSO\n\\fBrot13d.toml\\fR(5)\n";
const SEE_ALSO_SERVER: &str = ".SH SEE ALSO\n\\fBrot13d\\fR(1)\n";

/// Returns the folder of `rot13d generate DIR`. No subcommand of clap's, which completions would offer even if it is hidden.
pub(crate) fn folder(mut words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let (command, folder) = (words.nth(1)?, words.next()?);
    (command == "generate" && words.next().is_none()).then(|| folder.into())
}

/// Writes all, and tells what cannot be written.
pub(crate) fn run(folder: &Path) -> ExitCode {
    let Err(error) = generate(folder) else { return ExitCode::SUCCESS };
    let _ = writeln!(io::stderr(), "rot13d: {error}");
    ExitCode::FAILURE
}

/// Writes `man/*.1`, `man/*.5` and `completions/` into a folder.
///
/// # Errors
/// For a file that cannot be written, with its path.
fn generate(folder: &Path) -> io::Result<()> {
    let mut command = with_commands(Args::command().disable_help_subcommand(true));
    command.build();
    let date = date();

    let man = folder.join("man");
    create(&man)?;
    let pages = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    for page in pages.chain([&command]) {
        write(&man.join(format!("{}.1", name(page))), page_of(page, &date)?.as_bytes())?;
    }
    let mut text = Vec::new();
    settings(&date).to_writer(&mut text)?;
    write(&man.join("rot13d.toml.5"), &text)?;

    let completions = folder.join("completions");
    create(&completions)?;
    let mut command = with_commands(Args::command());
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let written = clap_complete::generate_to(shell, &mut command, "rot13d", &completions);
        written.map_err(|error| cannot_write(&completions, &error))?;
    }
    // clap writes none of a subcommand's words for this shell.
    #[cfg(feature = "console")]
    {
        let file = completions.join("rot13d.fish");
        let mut text = fs::read_to_string(&file).map_err(|error| cannot_write(&file, &error))?;
        let names: Vec<_> = console::commands().map(|(name, _)| name).collect();
        let ours = "complete -c rot13d -n \"__fish_rot13d_using_subcommand ctl\" -f -a";
        text.push_str(&format!("{ours} \"{}\"\n", names.join(" ")));
        write(&file, text.as_bytes())?;
    }
    Ok(())
}

/// Has pages and shells know the commands of the console, which the parser leaves to the console.
fn with_commands(command: Command) -> Command {
    #[cfg(feature = "console")]
    let command = command.mut_subcommand("ctl", |ctl| {
        let value = |(name, help): (&'static str, &'static str)| {
            PossibleValue::new(name).help(help.split_once(". ").map_or(help, |(first, _)| first).trim_end_matches('.'))
        };
        let values = PossibleValuesParser::new(console::commands().map(value));
        ctl.mut_arg("words", |words| words.value_parser(values))
    });
    command
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// The man page of a command.
fn page_of(command: &Command, date: &str) -> io::Result<String> {
    let mut command = command.clone().version(env!("CARGO_PKG_VERSION"));
    if command.has_subcommands() {
        // One that names each flag is longer than all that follows.
        command = command.override_usage("rot13d [OPTIONS]\nrot13d COMMAND [OPTIONS]");
    }
    let page = Man::new(command.clone()).date(date).source(SOURCE).manual(MANUAL);
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // An empty paragraph between two breaks, which both formatters warn of; and a section that no other page has.
    let mut text = text.replace("\n.br\n\n.br\n", "\n\n").replace("\n.SH EXTRA\n", "\n.SH NOTES\n");
    let others = if command.has_subcommands() { SEE_ALSO } else { SEE_ALSO_SERVER };
    text.push_str(others);
    Ok(text)
}

/// The day of a page: that of the release, or today.
fn date() -> String {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let release = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let stamp = humantime::format_rfc3339_seconds(release.unwrap_or_else(SystemTime::now)).to_string();
    stamp.get(..10).unwrap_or(&stamp).to_owned()
}

/// rot13d.toml(5).
fn settings(date: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["rot13d.toml", "5", date, SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman("rot13d.toml - settings of the line server rot13d")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("rot13d --config"), roman(" "), italic("FILE"), roman(" ["), bold("--check-config"), roman("]")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "A file in TOML. Each setting of the server is a key before the first table, and the flag of the same name:",
    )]);
    page.control("PP", []);
    page.control("RS", []);
    page.control("nf", []);
    for line in ["idle-timeout = \"5m\"", "max-sessions = 20000", "allow = [\"192.0.2.0/24\", \"unix\"]"] {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("RE", []);
    page.control("PP", []);
    page.text(marked(
        "A flag overrules the file, the file overrules the default. A value is the text of the flag; numbers may stand \
         without quotes, and what is repeatable is an array. An unknown key is an error, which names its line; \
         `rot13d --config FILE --check-config` tells it without a start.",
    ));
    page.control("PP", []);
    page.text(marked(
        "SIGHUP has the file read again. What of it holds from then on is said of each setting: at once, for living \
         sessions too; for new connections; or at a restart. A file with an error changes nothing.",
    ));
    for group in groups() {
        let heading = group.first().map_or("", |setting| setting.about.group);
        let (title, note) = heading.split_once(", ").unwrap_or((heading, ""));
        page.control("SH", [title.to_uppercase().as_str()]);
        if !note.is_empty() {
            page.text([roman(format!("Values: {note}."))]);
        }
        for setting in group {
            let about = &setting.about;
            entry(&mut page, about.name, about.default);
            let takes = setting.takes();
            let said = [about.help, ". ", about.advice, ". Takes ", &takes, ". SIGHUP: ", about.reload.words(), "."];
            page.text(marked(&said.concat()));
        }
    }
    page.control("SH", ["LISTENERS"]);
    page.text(marked(
        "Each `[[listener]]` is one more address, with a name and settings of its own. Its tables stand below all other \
         keys.",
    ));
    for table in TABLES {
        page.control("SS", [table.first().map_or("", |setting| setting.about.group)]);
        for setting in table {
            let about = &setting.about;
            entry(&mut page, about.name, about.default);
            page.text(marked(&[about.help, ". ", about.advice, ". Takes ", &setting.takes(), "."].concat()));
        }
    }
    page.control("SS", ["Limits of one listener"]);
    let limits: Vec<_> = Settings::ALL.iter().filter(|setting| is_of_listeners(setting)).collect();
    let limits: Vec<_> = limits.iter().map(|setting| format!("`{}`", setting.about.name)).collect();
    page.text(marked(&format!("Keys of `[[listener]]` as well, for its sessions alone: {}.", limits.join(", "))));
    page.control("SH", ["FILES"]);
    page.control("TP", []);
    page.text([bold("/etc/rot13d/rot13d.toml")]);
    page.text([roman("The file of the service that the packages install.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("rot13d"), roman("(1)")]);
    page
}

/// The head of a setting's paragraph.
fn entry(page: &mut Roff, name: &str, default: &[&str]) {
    page.control("TP", []);
    let default = match default {
        [] => "required".to_owned(),
        [""] => "default: empty".to_owned(),
        texts => format!("default: {}", texts.join(", ")),
    };
    page.text([bold(name), roman(format!(" ({default})"))]);
}

/// A text in Markdown's backticks.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

fn create(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))
}

fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    fs::write(file, text).map_err(|error| cannot_write(file, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {}", path.display(), reason(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_both_pages_and_in_each_shell() {
        let folder = std::env::temp_dir().join(format!("rot13d-generate-{}", std::process::id()));
        generate(&folder).unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let flag = |name: &str| format!("--{name}");
        let roff = |text: &str| text.replace('-', "\\-");
        for setting in Settings::ALL {
            let name = setting.about.name;
            assert!(read("man/rot13d.1").contains(&roff(&flag(name))), "{name}");
            assert!(read("man/rot13d.toml.5").contains(&format!("\n\\fB{}\\fR (", roff(name))), "{name}");
            assert!(read("completions/rot13d.bash").contains(&flag(name)), "{name}");
            assert!(read("completions/_rot13d").contains(&flag(name)), "{name}");
            assert!(read("completions/rot13d.fish").contains(&format!("-l {name} ")), "{name}");
        }
        #[cfg(feature = "console")]
        for (name, _) in console::commands() {
            for file in
                ["man/rot13d-ctl.1", "completions/rot13d.bash", "completions/_rot13d", "completions/rot13d.fish"]
            {
                assert!(read(file).contains(name), "{name} in {file}");
            }
        }
        for file in ["rot13d.bash", "_rot13d", "rot13d.fish"] {
            assert!(!read(&format!("completions/{file}")).contains("generate"), "{file} offers what is for packages");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = generate(Path::new("/dev/null/pages")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /dev/null/pages/man: "), "{error}");
    }

    #[test]
    fn only_the_word_and_a_folder_generate() {
        let asked = |words: &[&str]| folder(words.iter().map(OsString::from));
        assert_eq!(asked(&["rot13d", "generate", "pages"]), Some("pages".into()));
        for words in [&["rot13d"][..], &["rot13d", "generate"], &["rot13d", "-v", "pages"], &["", "generate", "a", "b"]]
        {
            assert_eq!(asked(words), None, "{words:?}");
        }
    }
}
