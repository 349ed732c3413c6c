//! Watch: the command that shows what happens as it happens.
//!
//! Not here: who hears of it (`hub`), its text (`entry`).

use crate::{
    console::{
        asked::Asked,
        entry::{KINDS, Watched},
        hub::{Told, WAITING_BYTES},
        out::Failure,
    },
    control::query::SessionFilter,
    words::{self, WrongWord},
};

/// Conditions that hold for a moment: what happens has none of them.
const MOMENTARY: [&str; 6] = ["name", "tag", "state", "age", "idle", "outbox"];

/// Returns true for a condition that `watch` does not take.
pub(crate) fn is_momentary(condition: &str) -> bool {
    MOMENTARY.contains(&condition.trim_end_matches(['=', '>']))
}

pub(crate) async fn watch(asked: Asked) -> Result<(), Failure> {
    let watched = watched(&asked).await?;
    asked.out.set_high(WAITING_BYTES);
    let feed = asked.setup.watching.join(&asked.server, watched);
    loop {
        let told = tokio::select! {
            () = asked.out.stopped() => return Ok(()),
            told = feed.next() => told,
        };
        let Some(told) = told else { return Ok(()) };
        for told in told {
            match told {
                Told::Lines(lines) => asked.out.lines(&lines),
                Told::Lost(count) => {
                    let object = serde_json::json!({ "event": "lost", "count": count });
                    asked.out.record(&object, format_args!("... {count} events lost"));
                }
            }
        }
        asked.out.sent().await;
    }
}

/// Reads the words: kinds of events, and a filter.
async fn watched(asked: &Asked) -> Result<Watched, Failure> {
    let is_kind = |word: &&String| KINDS.contains(&word.as_str());
    let (kinds, others): (Vec<_>, Vec<_>) = asked.words.iter().partition(is_kind);
    for word in &others {
        let key = word.split(['=', '>']).next().unwrap_or_default();
        if MOMENTARY.contains(&key) && key.len() < word.len() {
            let problem = "is of no use here: watch selects by kind, ID, peer= and listener=";
            return Err(WrongWord::new(word, problem).into());
        }
        if word.chars().all(|letter| letter.is_ascii_alphabetic() || letter == '-')
            && *word != "all"
            && !words::is_dry_run(word)
            && words::conditions().all(|(known, _)| known.trim_end_matches(['=', '>']) != word.as_str())
            && word.parse::<crate::source::Peers>().is_err()
        {
            return Err(WrongWord::unknown(word, "kind of event", KINDS).into());
        }
    }
    let filter: SessionFilter = words::filter(others.iter().map(|word| word.as_str()), &asked.listeners().await?)?;
    let bits =
        kinds.iter().filter_map(|word| KINDS.iter().position(|kind| kind == word)).fold(0, |bits, at| bits | 1 << at);
    Ok(Watched { kinds: bits, filter, is_json: asked.out.is_json() })
}
