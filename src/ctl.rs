//! Ctl: `rot13d ctl`, a client of the console for people and scripts.
//!
//! Rule: commands are the console's, passed on as they are typed. What this version does not know works as well.
//! Not here: what commands mean (`actix-lines`), where the console is by default (`console`).

mod client;
mod complete;
mod place;
mod prompt;
mod record;
mod screen;
mod script;
mod show;
mod top;
mod units;
mod wire;

use std::{
    ffi::OsString,
    io::{self, BufWriter, IsTerminal, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
};

use actix_lines::{ListenAddress, console};
use anstream::AutoStream;
use clap::ColorChoice;
use rustix::termios::tcgetwinsize;

use self::{
    client::{Client, Failure},
    place::Place,
    record::Said,
    show::Style,
};

/// Shows the sessions of a running rot13d, and steers it.
///
/// COMMAND is one of the console's: `rot13d ctl help` lists them, `rot13d ctl help COMMAND` explains one. Without one, they
/// are asked for at a prompt that knows history and completion; from a pipe they are read line by line.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Try it:\n  rot13d ctl list 'idle>1m' sort outbox limit 10\n  rot13d ctl kick peer=192.0.2.0/24 dry-run\n  \
                  rot13d ctl set idle-timeout 5m\n  rot13d ctl watch closed\n  rot13d ctl top\n\n\
                  > and < are the shell's: put quotes around a word that has one.\n\
                  Exit codes: 0 done, 1 the command failed, 2 bad usage, 3 cannot connect,\n  no console, or its token is missing or wrong."
)]
pub(crate) struct Options {
    /// Address of the console [default: the default of --console]
    #[arg(long, short, value_name = "ADDRESS", value_parser = place::parse)]
    connect: Option<ListenAddress>,

    /// File with the console's token; else it is the value of ROT13D_CONSOLE_TOKEN, if there is one
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,

    /// Print what the console says: one JSON object a line
    #[arg(long, short)]
    json: bool,

    /// Print exact numbers: bytes and seconds
    #[arg(long, short, conflicts_with = "json")]
    raw: bool,

    /// Colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,

    /// With commands from a pipe, go on after one that fails
    #[arg(long, short)]
    keep_going: bool,

    /// A command of the console and its words; behind `--` a text for peers
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

/// Exit codes, those of clap among them.
const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;
/// As a shell says of a command that SIGINT has ended.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Runs a command, those of a pipe, or those typed at a prompt.
pub(crate) fn run(options: Options) -> ExitCode {
    let has_colors = has_colors(options.color);
    match execute(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let style = Style { has_colors: has_colors && io::stderr().is_terminal(), ..Style::default() };
            failure.tell(style);
            ExitCode::from(failure.code())
        }
    }
}

fn execute(options: Options) -> Result<(), Failure> {
    let mut style = Style {
        is_json: options.json,
        is_exact: options.raw,
        has_colors: has_colors(options.color),
        width: terminal_width(),
    };
    let command = command(&options)?;
    let place = Place::new(options.connect, options.token.as_deref()).map_err(Failure::Usage)?;
    let mut client = Client::new(place);
    let mut out = BufWriter::new(stdout().lock());
    if !command.is_empty() {
        let command = client::without_json(&command, &mut style);
        return perform(&mut client, command, style, &mut out);
    }
    if stdin().is_terminal() && stdout().is_terminal() {
        // A command that goes on ends by SIGINT or a key, and the prompt comes again.
        client.take_signals()?;
        client.has_keys = true;
        return prompt::run(client, style, &mut out);
    }
    script::run(&mut client, style, options.keep_going, &mut out)
}

/// Runs a command and shows its answer, or that of `top` on the whole terminal, where there is one.
fn perform(client: &mut Client, command: &str, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let is_view = client::first_word(command) == "top" && client::is_endless(command) && !style.is_json;
    match is_view {
        true if stdin().is_terminal() && stdout().is_terminal() => top::run(client, command, style),
        true => client.run(&format!("{command} once"), style, out),
        false => match client.run(command, style, out) {
            // Who has no server yet may read as well.
            Err(Failure::Unreachable(_)) if client::first_word(command) == "help" => help(command, style, out),
            result => result,
        },
    }
}

/// Shows the help of this version.
fn help(command: &str, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let words = command.trim_start().strip_prefix("help").unwrap_or_default();
    for line in console::help(words, style.is_json).lines() {
        match Said::new(line) {
            Said::Error(message) => return Err(Failure::Refused(message)),
            _ => writeln!(out, "{line}")?,
        }
    }
    out.flush()?;
    let _ = writeln!(io::stderr(), "No console answers: this is the help of this version.");
    Ok(())
}

/// Returns the arguments of this process as they are to be parsed: those of `ctl` have its flags first, then `--` and the
/// command as it was typed. A flag that is none of ours is a word of the command's: the console knows what it is.
pub(crate) fn arguments(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<_> = all.collect();
    if all.get(1).is_none_or(|word| word != "ctl") {
        return all;
    }
    let mut words = all.split_off(2).into_iter();
    let known = <Options as clap::Args>::augment_args(clap::Command::new("ctl"));
    let mut command: Vec<OsString> = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            // Behind the words of a command comes a text; without any, a command that begins with a dash.
            command.extend((!command.is_empty()).then_some(word));
            command.extend(words.by_ref());
        } else if let Some(has_value) = flag(&known, &text) {
            all.push(word);
            all.extend(has_value.then(|| words.next()).flatten());
        } else if command.is_empty() && text.len() > 1 && text.starts_with('-') {
            // Nobody's: the parser says so.
            all.push(word);
        } else if text == "--help" || text == "-h" {
            command.splice(1.., []);
            command.insert(0, "help".into());
            break;
        } else {
            command.push(if text == "--dry-run" || text == "--dryrun" { "dry-run".into() } else { word });
        }
    }
    if !command.is_empty() {
        all.push("--".into());
        all.append(&mut command);
    }
    all
}

/// Returns true for a flag of ours that has its value in the next word, false for another of ours.
fn flag(known: &clap::Command, word: &str) -> Option<bool> {
    let find = |is_it: &dyn Fn(&clap::Arg) -> bool| known.get_arguments().find(|arg| is_it(arg));
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next();
        let flag = find(&|arg| arg.get_long().is_some() && arg.get_long() == name)?;
        return Some(flag.get_action().takes_values() && !long.contains('='));
    }
    let mut letters = word.strip_prefix('-').filter(|letters| !letters.is_empty())?.chars();
    while let Some(letter) = letters.next() {
        if find(&|arg| arg.get_short() == Some(letter))?.get_action().takes_values() {
            return Some(letters.as_str().is_empty());
        }
    }
    Some(false)
}

/// The words of the command line as a line of the console's.
fn command(options: &Options) -> Result<String, Failure> {
    let line = options.words.join(" ");
    match line.chars().find(|letter| letter.is_control()) {
        Some(letter) => Err(Failure::Usage(format!(
            "a command is one line: {} cannot be in it; read several commands from a pipe",
            letter.escape_debug()
        ))),
        None => Ok(line),
    }
}

/// Returns true if standard output shows colours, or should as if it did.
fn has_colors(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(&stdout()) != anstream::ColorChoice::Never,
    }
}

/// The columns of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    let size = tcgetwinsize(stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_flag_of_ours_is_a_word_of_the_command() {
        for (typed, parsed) in [
            ("list", "-- list"),
            ("kick 5 --dry-run", "-- kick 5 dry-run"),
            ("kick --dryrun 5 --json", "--json -- kick dry-run 5"),
            ("kick 5 -- --dry-run", "-- kick 5 -- --dry-run"),
            ("kick 5 --", "-- kick 5 --"),
            ("-jcfile list --novelty=1 -x", "-jcfile -- list --novelty=1 -x"),
            ("list -c here --token there -rk", "-c here --token there -rk -- list"),
            ("--connect=here -- --odd -- x --json", "--connect=here -- --odd -- x --json"),
            ("--colour list", "--colour -- list"),
            ("kick all --help", "-- help kick"),
            ("--help", "--help"),
            ("", ""),
        ] {
            let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            let all = arguments(words("rot13d ctl").into_iter().chain(words(typed)));
            assert_eq!(all[2..], words(parsed), "{typed}");
        }
        assert_eq!(arguments(["rot13d", "--dry-run"].map(OsString::from).into_iter()), ["rot13d", "--dry-run"]);
    }
}
