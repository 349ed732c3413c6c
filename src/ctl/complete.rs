//! Complete: what a word of a command may become.
//!
//! Rule: the console says what there is: its help, its limits, listeners and sessions. Only words that no answer has are
//! written here.
//! Not here: the keyboard (`prompt`).

use std::collections::BTreeMap;

use super::record::{Said, Value, field};

/// The words of a filter.
const FILTERS: [&str; 11] =
    ["all", "peer=", "listener=", "name=", "tag=", "node=", "state=", "age>", "idle>", "outbox>", "#"];
const STATES: [&str; 4] = ["open", "held", "draining", "closing"];
const PEERS: [&str; 3] = ["unix", "uid:", "gid:"];
const ORDERS: [&str; 6] = ["id", "idle", "outbox", "bytes-in", "bytes-out", "lines"];
const EVENTS: [&str; 7] = ["opened", "named", "closed", "refused", "limits", "listeners", "draining"];

/// Words that have a value behind them: `limit N`.
const WITH_A_VALUE: [&str; 4] = ["sort", "limit", "offset", "every"];

/// Begins a text, in which nothing is completed.
const TEXT: &str = "--";

/// Sessions that are asked for, to complete the number of one.
const SESSIONS: &str = "list limit 200";

/// The commands of a console, with the words behind each as its help has them.
pub(super) type Commands = BTreeMap<String, String>;

/// Reads the answer to `help`.
pub(super) fn commands(help: &[Said]) -> Commands {
    let command = |said: &Said| {
        let Said::Record(fields) = said else { return None };
        let text = |name| field(fields, name).and_then(Value::text).map(str::to_owned);
        Some((text("command")?, text("words").unwrap_or_default()))
    };
    help.iter().filter_map(command).collect()
}

/// Returns the words that the last one of `line` may become. `ask` asks the console.
///
/// A word that ends with a blank is complete.
pub(super) fn candidates(line: &str, commands: &Commands, mut ask: impl FnMut(&str) -> Vec<Said>) -> Vec<String> {
    let mut words: Vec<_> = line.split_whitespace().collect();
    let word = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or("") };
    if words.first() == Some(&"json") {
        words.remove(0);
    }
    let Some((&command, arguments)) = words.split_first() else {
        return matching(word, commands.keys().map(|command| command.to_owned() + " "));
    };
    let Some(usage) = commands.get(command) else { return Vec::new() };
    // A text takes all that follows.
    if arguments.contains(&TEXT) || usage.starts_with("TEXT") {
        return Vec::new();
    }
    let parts: Vec<_> = usage.split_whitespace().map(|part| part.trim_matches(['[', ']', '.'])).collect();
    let takes = |part: &str| parts.contains(&part);
    let previous = arguments.last().copied().unwrap_or("");
    if WITH_A_VALUE.contains(&previous) {
        let values = if previous == "sort" { &ORDERS[..] } else { &[] };
        return matching(word, complete(values));
    }
    if let Some((name, value)) = word.split_once('=').filter(|_| takes("FILTER")) {
        let values: Vec<_> = match name {
            "listener" => texts(&ask("listeners"), "id").into_iter().map(|name| name + " ").collect(),
            "node" => {
                let names = texts(&ask("list nodes"), "node").into_iter().map(|name| name + " ");
                names.chain(["* ".to_owned()]).collect()
            }
            "state" => complete(&STATES).collect(),
            "peer" => PEERS.map(str::to_owned).to_vec(),
            _ => Vec::new(),
        };
        return matching(value, values).into_iter().map(|value| format!("{name}={value}")).collect();
    }
    let mut found = Vec::new();
    if takes("FILTER") || takes("ID") {
        let digits = word.strip_prefix('#').unwrap_or(word);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && (takes("ID") || !word.is_empty()) {
            let sign = if word.starts_with('#') { "#" } else { "" };
            found.extend(texts(&ask(SESSIONS), "id").into_iter().map(|id| format!("{sign}{id} ")));
        }
    }
    if takes("FILTER") {
        let whole = |word: &str| if word == "all" { "all ".to_owned() } else { word.to_owned() };
        // Behind the sign are numbers.
        found.extend(FILTERS.into_iter().filter(|filter| *filter != word).map(whole));
    }
    if takes("KEY") && takes("VALUE") {
        match arguments {
            [] => found.extend(texts(&ask("limits"), "key").into_iter().map(|key| key + " ")),
            // To change a value, begin with the one that is.
            [key] => found.extend(value_of(&ask("limits"), key)),
            _ => {}
        }
    }
    if takes("COMMAND") && arguments.is_empty() {
        found.extend(commands.keys().map(|command| command.to_owned() + " "));
    }
    if takes("LISTENER") && arguments.is_empty() {
        found.extend(texts(&ask("listeners"), "id").into_iter().map(|name| name + " "));
    }
    if takes("KIND") {
        found.extend(complete(&EVENTS));
    }
    // Words that are written as they stand there.
    let is_word = |part: &&str| part.contains(char::is_lowercase) && !part.contains(char::is_uppercase);
    let typed = parts.iter().filter(|part| is_word(part) && !arguments.contains(part));
    found.extend(typed.map(|part| format!("{part} ")));
    if takes(TEXT) {
        found.push(format!("{TEXT} "));
    }
    matching(word, found)
}

fn complete<'a>(words: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    words.iter().map(|word| format!("{word} "))
}

fn matching(word: &str, candidates: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut found: Vec<_> = candidates.into_iter().filter(|candidate| candidate.starts_with(word)).collect();
    // Numbers of sessions as numbers, behind the words.
    let number = |word: &str| word.trim_end().trim_start_matches('#').parse::<u64>().ok();
    found.sort_by_cached_key(|word| (number(word), word.clone()));
    found.dedup();
    found
}

/// The values of a field in all records, as words; a text with a blank is none.
fn texts(answer: &[Said], name: &str) -> Vec<String> {
    let word = |said: &Said| match said {
        Said::Record(fields) => match field(fields, name)? {
            Value::Text(text) => Some(text.clone()).filter(|text| !text.contains(char::is_whitespace)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        },
        _ => None,
    };
    answer.iter().filter_map(word).collect()
}

fn value_of(limits: &[Said], key: &str) -> Option<String> {
    limits.iter().find_map(|said| match said {
        Said::Record(fields) if field(fields, "key").and_then(Value::text) == Some(key) => {
            field(fields, "value").and_then(Value::text).map(str::to_owned)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let said = |lines: &[&str]| lines.iter().map(|line| Said::new(line)).collect::<Vec<_>>();
        let commands = commands(&said(&[
            r#"{"command":"kick","words":"FILTER... [dry-run] [-- GOODBYE]"}"#,
            r#"{"command":"list","words":"[FILTER...] [sort KEY] [limit N] [offset N]"}"#,
            r#"{"command":"help","words":"[COMMAND]"}"#,
            r#"{"command":"show","words":"ID"}"#,
            r#"{"command":"set","words":"KEY VALUE [dry-run]"}"#,
            r#"{"command":"pause","words":"LISTENER"}"#,
            r#"{"command":"wall","words":"TEXT"}"#,
            r#"{"command":"watch","words":"[KIND...] [FILTER...]"}"#,
        ]));
        candidates(line, &commands, |command| match command {
            "listeners" => said(&[r#"{"id":"public"}"#, r#"{"id":"1"}"#, r#"{"id":"two words"}"#]),
            "limits" => said(&[r#"{"key":"idle-timeout","value":"10m"}"#, r#"{"key":"max-sessions","value":"5"}"#]),
            "list nodes" => said(&[r#"{"node":"web-1","sessions":7}"#, r#"{"node":"web-2","sessions":8}"#]),
            SESSIONS => said(&[r#"{"id":7}"#, r#"{"id":71}"#, r#"{"id":8}"#]),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn commands_and_their_words_are_those_of_the_console() {
        assert_eq!(complete("s"), ["set ", "show "]);
        assert_eq!(complete("json li"), ["list "]);
        assert_eq!(complete("nothing "), [""; 0]);
        assert_eq!(complete("help w"), ["wall ", "watch "]);
        assert_eq!(
            complete("kick "),
            [
                "#",
                "-- ",
                "age>",
                "all ",
                "dry-run ",
                "idle>",
                "listener=",
                "name=",
                "node=",
                "outbox>",
                "peer=",
                "state=",
                "tag="
            ]
        );
        assert_eq!(complete("list all s"), ["sort ", "state="]);
        assert_eq!(complete("list sort b"), ["bytes-in ", "bytes-out "]);
        assert_eq!(complete("list sort id s"), ["state="]);
        assert_eq!(complete("list limit "), [""; 0]);
        assert_eq!(complete("watch c"), ["closed "]);
    }

    #[test]
    fn values_are_what_the_console_has() {
        assert_eq!(complete("kick listener="), ["listener=public ", "listener=1 "]);
        assert_eq!(complete("kick state=d"), ["state=draining "]);
        assert_eq!(complete("kick node="), ["node=* ", "node=web-1 ", "node=web-2 "]);
        assert_eq!(complete("watch n"), ["name=", "named ", "node="]);
        assert_eq!(complete("pause p"), ["public "]);
        assert_eq!(complete("show "), ["7 ", "8 ", "71 "]);
        assert_eq!(complete("show 7"), ["7 ", "71 "]);
        assert_eq!(complete("kick #7"), ["#7 ", "#71 "]);
        assert_eq!(complete("set i"), ["idle-timeout "]);
        assert_eq!(complete("set idle-timeout "), ["10m", "dry-run "]);
        assert_eq!(complete("set idle-timeout 5m d"), ["dry-run "]);
    }

    #[test]
    fn nothing_is_completed_in_a_text() {
        assert_eq!(complete("kick all -- d"), [""; 0]);
        assert_eq!(complete("wall s"), [""; 0]);
    }
}
