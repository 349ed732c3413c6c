//! Commands: the table of all commands, and the help that is made of it.
//!
//! To add a command: write its function in a file of its own or beside its like, and a line here.
//! Not here: what they do (`reports`, `changes`).

use std::pin::Pin;

use serde_json::json;

#[cfg(feature = "cluster")]
use crate::console::nodes;
use crate::{
    console::{
        asked::Asked,
        changes,
        out::{Failure, Out},
        reports,
        request::Request,
        top, trace, watch,
    },
    limits::keys::LimitKey,
    words::{self, WrongWord},
};

type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// What may stand behind a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Words,
    /// Words, and behind `--` a text.
    WordsAndText,
    /// The rest of the line is a text.
    Text,
}

pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// The words behind it, as help shows them.
    pub(crate) words: &'static str,
    pub(crate) help: &'static str,
    pub(crate) example: &'static str,
    takes: Takes,
    /// Returns true for one that goes on by itself until its peer sends a line: see [`Out::stopped`].
    is_live: fn(&[String]) -> bool,
    run: fn(Asked) -> Running,
}

const fn ends(_: &[String]) -> bool {
    false
}

const fn goes_on(_: &[String]) -> bool {
    true
}

const LIST: &str = if cfg!(feature = "cluster") {
    "[nodes] [FILTER...] [sort KEY] [limit N] [offset N]"
} else {
    "[FILTER...] [sort KEY] [limit N] [offset N]"
};

/// In the order of help.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        words: "[COMMAND]",
        help: "Lists the commands, or explains one.",
        example: "help kick",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(async move { write_help(&asked.words, &asked.out) }),
    },
    Command {
        name: "version",
        words: "",
        help: "Shows the program's name and version, and for how long it has run.",
        example: "version",
        takes: Takes::Nothing,
        is_live: ends,
        run: |asked| Box::pin(reports::version(asked)),
    },
    Command {
        name: "stats",
        words: "",
        help: "Shows the server's counters since its start.",
        example: "stats",
        takes: Takes::Nothing,
        is_live: ends,
        run: |asked| Box::pin(reports::stats(asked)),
    },
    Command {
        name: "listeners",
        words: "",
        help: "Lists the listeners with their counters.",
        example: "listeners",
        takes: Takes::Nothing,
        is_live: ends,
        run: |asked| Box::pin(reports::listeners(asked)),
    },
    Command {
        name: "list",
        words: LIST,
        help: "Lists sessions, by number or the largest first. A session that does not read what it is sent is held: it is not \
               read from, and its idle time stands still, until that is less.",
        example: "list listener=public sort bytes-in limit 10",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(reports::list(asked)),
    },
    Command {
        name: "count",
        words: "[FILTER...]",
        help: "Counts sessions.",
        example: "count peer=192.0.2.0/24 idle>5m",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(reports::count(asked)),
    },
    Command {
        name: "show",
        words: "ID",
        help: "Shows all that is known of a session.",
        example: "show 7",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(reports::show(asked)),
    },
    Command {
        name: "kick",
        words: "FILTER... [dry-run] [-- GOODBYE]",
        help: "Ends sessions politely: each answers what it has read, and is sent the goodbye as a line. With dry-run it \
               ends none, and shows how many it would and the first ten.",
        example: "kick peer=192.0.2.7 -- you send too much",
        takes: Takes::WordsAndText,
        is_live: ends,
        run: |asked| Box::pin(changes::kick(asked)),
    },
    Command {
        name: "push",
        words: "FILTER... -- TEXT",
        help: "Sends sessions a line.",
        example: "push listener=public -- the server restarts at noon",
        takes: Takes::WordsAndText,
        is_live: ends,
        run: |asked| Box::pin(changes::push(asked)),
    },
    Command {
        name: "wall",
        words: "TEXT",
        help: "Sends every session a line.",
        example: "wall the server restarts at noon",
        takes: Takes::Text,
        is_live: ends,
        run: |asked| Box::pin(changes::wall(asked)),
    },
    Command {
        name: "pause",
        words: "LISTENER",
        help: "Accepts no more connections of a listener: its backlog holds them. Its sessions go on.",
        example: "pause public",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(changes::pause(asked)),
    },
    Command {
        name: "resume",
        words: "LISTENER",
        help: "Accepts connections of a paused listener again.",
        example: "resume public",
        takes: Takes::Words,
        is_live: ends,
        run: |asked| Box::pin(changes::resume(asked)),
    },
    Command {
        name: "limits",
        words: "",
        help: "Shows the limits in force, each with its unit.",
        example: "limits",
        takes: Takes::Nothing,
        is_live: ends,
        run: |asked| Box::pin(reports::limits(asked)),
    },
    Command {
        name: "set",
        words: "KEY VALUE [dry-run]",
        help: "Changes a limit until the next restart or reload, and says how many sessions end by it. With dry-run it \
               changes nothing, and shows the first ten that would.",
        example: "set idle-timeout 5m dry-run",
        takes: Takes::WordsAndText,
        is_live: ends,
        run: |asked| Box::pin(changes::set(asked)),
    },
    Command {
        name: "drain",
        words: "[TIME] [dry-run] [-- GOODBYE]",
        help: "Ends the server as SIGTERM does: it accepts no more, every session answers what it has read; after TIME it \
               cuts the rest, whatever they have yet to be sent. Shows how far it is each second. With dry-run it changes nothing, and says how many sessions \
               would be told to end.",
        example: "drain 30s -- back in a minute",
        takes: Takes::WordsAndText,
        is_live: ends,
        run: |asked| Box::pin(changes::drain(asked)),
    },
    Command {
        name: "watch",
        words: "[KIND...] [FILTER...]",
        help: "Shows what happens until a line is sent. A KIND is opened, named, closed, refused, limits, listeners or draining; a \
               FILTER is by ID, peer= and listener= here. A console that does not keep up is told how much it has missed.",
        example: "watch closed refused listener=public",
        takes: Takes::Words,
        is_live: goes_on,
        run: |asked| Box::pin(watch::watch(asked)),
    },
    Command {
        name: "top",
        words: "[FILTER...] [sort KEY] [limit N] [every TIME] [once]",
        help: "Shows the rates of sessions, the largest first, each second until a line is sent. With once it shows them \
               one time. KEYs of counters mean their rates.",
        example: "top listener=public sort lines limit 5 every 2s",
        takes: Takes::Words,
        is_live: top::is_live,
        run: |asked| Box::pin(top::top(asked)),
    },
    Command {
        name: "trace",
        words: "ID",
        help: "Shows what a session says (>) and is told (<) until it ends or a line is sent. It has to be allowed, and is \
               logged.",
        example: "trace 7",
        takes: Takes::Words,
        is_live: goes_on,
        run: |asked| Box::pin(trace::trace(asked)),
    },
    Command {
        name: QUIT,
        words: "",
        help: "Closes this console.",
        example: "quit",
        takes: Takes::Nothing,
        is_live: ends,
        // Its session does so.
        run: |_| Box::pin(async { Ok(()) }),
    },
];

/// Words that other programs have for commands of this one.
const ELSEWHERE: [(&str, &str); 8] = [
    ("kill", "kick"),
    ("ban", "set deny"),
    ("exit", QUIT),
    ("shutdown", "drain"),
    ("stop", "drain"),
    ("sessions", "list"),
    ("?", "help"),
    ("who", "list"),
];

/// The command that closes its session.
pub(crate) const QUIT: &str = "quit";

fn names() -> impl Iterator<Item = &'static str> + Clone {
    COMMANDS.iter().map(|command| command.name)
}

impl Command {
    /// Returns the command of this name.
    pub(crate) fn find(name: &str) -> Result<&'static Self, WrongWord> {
        if let Some((_, meant)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
            return Err(WrongWord::new(name, format_args!("is no command: did you mean {meant}?")));
        }
        let found = COMMANDS.iter().find(|command| command.name == name);
        found.ok_or_else(|| WrongWord::listed(name, "command", names(), "help"))
    }

    /// Takes apart what stands behind its name, and prepares its run.
    pub(crate) fn prepare(
        &'static self,
        request: &Request<'_>,
        asked: impl FnOnce(&'static str) -> Asked,
    ) -> Result<Prepared, WrongWord> {
        let (words, text) = match self.takes {
            Takes::Text => (Vec::new(), Some(request.text())),
            _ => request.words()?,
        };
        let takes_text = matches!(self.takes, Takes::Text | Takes::WordsAndText);
        if text.is_some() && !takes_text {
            return Err(WrongWord::new("--", format_args!("is too much: {} has no text", self.name)));
        }
        if let Some(word) = words.first().filter(|_| self.takes == Takes::Nothing) {
            return Err(WrongWord::new(word, format_args!("is too much: {} stands alone", self.name)));
        }
        if let Some(text) = &text {
            words::check_text(text, self.instead_of_dry_run())?;
        }
        let is_live = (self.is_live)(&words);
        let asked = Asked { words, text, ..asked(self.name) };
        Ok(Prepared { is_live, run: (self.run)(asked) })
    }

    /// Says what to write for a dry run in place of a text that ends in it.
    fn instead_of_dry_run(&self) -> &'static str {
        match self.words.contains("dry-run") {
            true => "for a dry run write dry-run before --",
            false => "this command has no dry run; count says how many a filter has",
        }
    }

    fn usage(&self) -> String {
        format!("{} {}", self.name, self.words).trim_end().to_owned()
    }

    fn describe(&self, out: &Out) {
        let object = json!({ "command": self.name, "words": self.words, "help": self.help, "example": self.example });
        if out.is_json() {
            return out.object(&object);
        }
        out.line(format_args!("{}", self.usage()));
        out.line(format_args!("  {}", self.help));
        if self.words.contains("FILTER") {
            out.line(format_args!("  A FILTER is one of these words; of several all have to hold:"));
            // What happens has no state or age of its own.
            let is_of_use = |word: &str| self.name != "watch" || !watch::is_momentary(word);
            let conditions = words::conditions().filter(|(word, _)| is_of_use(word));
            conditions.for_each(|(word, meaning)| out.line(format_args!("    {word:<12} {meaning}")));
            #[cfg(feature = "cluster")]
            if words::TAKE_NODE.contains(&self.name) {
                let (word, meaning) = nodes::NODE;
                out.line(format_args!("    {word:<12} {meaning}"));
                let all = match self.name {
                    "list" | "count" => "In a cluster all are the sessions of all nodes.",
                    _ => {
                        "all are the sessions of this node, and with node=* those of all nodes; node= alone is no filter."
                    }
                };
                out.line(format_args!("  {all}"));
            }
        }
        if self.words.contains("sort KEY") {
            out.line(format_args!("  A KEY is {}.", words::one_of(words::orders())));
        }
        if self.name == "list" && cfg!(feature = "cluster") {
            out.line(format_args!(
                "  In a cluster list nodes has the nodes, and list all the sessions of all, by id or sort age."
            ));
        }
        if self.name == "set" {
            out.line(format_args!("  A KEY is one of these; limits shows their values:"));
            LimitKey::all().for_each(|key| out.line(format_args!("    {:<24} {}", key.name(), key.help())));
        }
        out.line(format_args!("  Example: {}", self.example));
    }
}

/// A command that is about to run.
pub(crate) struct Prepared {
    pub(crate) is_live: bool,
    pub(crate) run: Running,
}

/// Returns the names of the commands, each with its help, in the order of `help`.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    COMMANDS.iter().map(|command| (command.name, command.help))
}

/// Returns the answer to `help` with these words behind it, without the empty line that ends it: for who has no console.
///
/// If `is_json` is true each command is a JSON object on a line of its own, as with `json help`.
pub fn help(words: &str, is_json: bool) -> String {
    let (out, words) = (Out::new(is_json), words.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    if let Err(failure) = write_help(&words, &out) {
        out.fail(&failure);
    }
    String::from_utf8_lossy(&out.take()).into_owned()
}

fn write_help(words: &[String], out: &Out) -> Result<(), Failure> {
    match words {
        [] if out.is_json() => COMMANDS.iter().for_each(|command| command.describe(out)),
        [] => {
            for command in COMMANDS {
                let first = command.help.split_inclusive(['.', ':']).next().unwrap_or_default();
                let first = first.trim_end_matches(['.', ':']);
                out.line(format_args!("{:<52} {first}", command.usage()));
            }
            out.line(format_args!("With json before a command each record is one JSON object."));
            out.line(format_args!(
                "help COMMAND explains one, with an example; help list has FILTERs and the KEYs of sort."
            ));
        }
        [name] => Command::find(name)?.describe(out),
        [_, second, ..] => {
            return Err(WrongWord::new(second, "is too much: help explains one command").into());
        }
    }
    Ok(())
}
