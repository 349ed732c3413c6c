//! Request: one line of a peer, taken apart.
//!
//! Rule: every line is a request, nothing, or an error that names a word; none panics.
//! Not here: the commands (`commands`), what their words mean (`words`).

use bytes::Bytes;

use crate::words::{WrongWord, split_first};

/// Begins a text that is taken as it is.
const TEXT: &[u8] = b"--";

/// A command as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) is_json: bool,
    /// The first word.
    pub(crate) name: String,
    /// Everything behind it.
    pub(crate) rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes a line apart. `None` for one without a word.
    pub(crate) fn new(line: &'a [u8]) -> Result<Option<Self>, (bool, WrongWord)> {
        let (mut name, mut rest) = split_first(line);
        let is_json = name == b"json";
        if is_json {
            (name, rest) = split_first(rest);
            if name.is_empty() {
                return Err((true, WrongWord::alone("json", "a command")));
            }
        }
        if name.is_empty() {
            return Ok(None);
        }
        let name = text(name).map_err(|error| (is_json, error))?.to_owned();
        Ok(Some(Self { is_json, name, rest }))
    }

    /// Returns the words behind the first, and the text behind `--`, if there is one.
    pub(crate) fn words(&self) -> Result<(Vec<String>, Option<Bytes>), WrongWord> {
        let mut words = Vec::new();
        let mut rest = self.rest;
        loop {
            let word;
            (word, rest) = split_first(rest);
            match word {
                [] => return Ok((words, None)),
                TEXT => {
                    // One blank parts the two, others belong to the text.
                    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
                    return Ok((words, Some(Bytes::copy_from_slice(rest))));
                }
                word => words.push(text(word)?.to_owned()),
            }
        }
    }

    /// Returns all that is behind the first word, or behind a `--` that follows it, as a text.
    pub(crate) fn text(&self) -> Bytes {
        let rest = self.rest.strip_prefix(b" ").unwrap_or(self.rest);
        let text = match split_first(rest) {
            (TEXT, behind) => behind.strip_prefix(b" ").unwrap_or(behind),
            _ => rest,
        };
        Bytes::copy_from_slice(text)
    }
}

fn text(word: &[u8]) -> Result<&str, WrongWord> {
    std::str::from_utf8(word).map_err(|_| {
        let shown = crate::escape::Escaped::new(word).to_string();
        WrongWord { message: format!("\"{shown}\" is no UTF-8: write it in ASCII"), word: shown }
    })
}

/// Returns true for a line of HTTP: a page in a browser may have it send one to any port.
pub(crate) fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] =
        [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];
    let (first, rest) = split_first(line);
    let is_request = METHODS.contains(&first) && !rest.trim_ascii().is_empty();
    // A method of another kind; commands have small letters, and a text behind one may speak of HTTP.
    let is_shouted = !first.is_empty() && first.iter().all(u8::is_ascii_uppercase);
    let is_other = is_shouted && rest.windows(6).any(|word| word == b" HTTP/");
    is_request || is_other || first.eq_ignore_ascii_case(b"host:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> (bool, String, Vec<String>, Option<Bytes>) {
        let request = Request::new(line.as_bytes()).unwrap().unwrap();
        let (words, text) = request.words().unwrap();
        (request.is_json, request.name, words, text)
    }

    #[test]
    fn a_line_is_words_and_a_text_behind_dashes() {
        let expected = |is_json, name: &str, words: &[&str], text: Option<&'static str>| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            (is_json, name.to_owned(), words, text.map(Bytes::from))
        };
        assert_eq!(words("stats"), expected(false, "stats", &[], None));
        assert_eq!(words(" \tjson  list  all "), expected(true, "list", &["all"], None));
        assert_eq!(words("kick all -- bye -- now "), expected(false, "kick", &["all"], Some("bye -- now ")));
        assert_eq!(words("push 7 --   x"), expected(false, "push", &["7"], Some("  x")));
        assert_eq!(words("push 7 --"), expected(false, "push", &["7"], Some("")));
        assert_eq!(words("push --x"), expected(false, "push", &["--x"], None));
        for blank in ["", " ", "\t \t"] {
            assert_eq!(Request::new(blank.as_bytes()), Ok(None));
        }
        let error = Request::new(b"json ").unwrap_err();
        assert_eq!((error.0, error.1.to_string().as_str()), (true, "\"json\" stands alone: write a command behind it"));
        let error = Request::new(b"\xff\xf4 stats").unwrap_err();
        assert_eq!(error.1.to_string(), r#""\xff\xf4" is no UTF-8: write it in ASCII"#);
        let request = Request::new(b"list \xe4").unwrap().unwrap();
        assert_eq!(request.words().unwrap_err().word, r"\xe4");
    }

    #[test]
    fn a_text_without_dashes_is_the_rest_of_the_line() {
        let text = |line: &'static str| Request::new(line.as_bytes()).unwrap().unwrap().text();
        assert_eq!(text("wall the  machine moves "), "the  machine moves ");
        assert_eq!(text("wall -- -- moves"), "-- moves");
        assert_eq!(text("wall"), "");
    }

    #[test]
    fn lines_of_http_are_known_and_commands_are_none() {
        for line in ["GET / HTTP/1.1", "POST /x HTTP/1.0", "Host: localhost", "host: x", "GET /", "PRI * HTTP/2.0"] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in
            ["stats", "get /", "list all", "wall we speak HTTP/2 now", "push all -- GET / HTTP/1.1", "GET", "hosts", ""]
        {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
    }
}
