//! Variables: which are used before anything has set them, found without running the script.
//!
//! Not here: what they hold (`run`).

use std::collections::BTreeSet;

use crate::script::{
    ast::{Action, Data, Expectation, Kind, Matcher, Part, Pattern, ServerAction, Span, Statement, Text},
    literal::pattern_variables,
    report::Diagnostic,
};

/// The variables that are set at one point of a script.
pub(crate) struct Scope {
    pub(crate) bound: BTreeSet<String>,
    /// Servers that were started.
    pub(crate) servers: BTreeSet<String>,
    pub(crate) errors: Vec<Diagnostic>,
}

/// The folder of a script's own.
pub(crate) const TMP: &str = "tmp";

/// The variable with the port of a server.
pub(crate) fn port_variable(server: &str) -> String {
    if server.is_empty() { "port".to_owned() } else { format!("{server}_port") }
}

/// The variable with the port of a peer that listens. Names of peers may have hyphens, those of variables may not.
pub(crate) fn listening_variable(peer: &str) -> String {
    port_variable(&peer.replace('-', "_"))
}

/// How reports call a peer.
pub(crate) fn peer_title(name: &str) -> &str {
    if name.is_empty() { "the peer" } else { name }
}

/// How reports call a server.
pub(crate) fn server_title(name: &str) -> String {
    if name.is_empty() { "the server".to_owned() } else { format!("the server {name}") }
}

pub(crate) fn unset(name: &str, span: Span) -> Diagnostic {
    if name == TMP || name == "port" || name.ends_with("_port") {
        let help =
            "`server COMMAND` sets `$port` and `$tmp`, `server NAME = COMMAND` sets `$NAME_port`, for lines behind it";
        return Diagnostic::new(format!("nothing has set `${name}`"), span, "used here").help(help);
    }
    let help = format!(
        "set it by `let {name} = …`, from outside (`--var {name}=…`), or by a pattern above with `(?<{name}>…)`; a dollar sign is `$$`"
    );
    Diagnostic::new(format!("nothing has set `${name}`"), span, "used here").help(help)
}

impl Scope {
    pub(crate) fn new(bound: impl Iterator<Item = String>) -> Self {
        Self { bound: bound.collect(), servers: BTreeSet::new(), errors: Vec::new() }
    }

    fn uses(&mut self, name: &str, span: Span) {
        if !self.bound.contains(name) {
            self.errors.push(unset(name, span));
        }
    }

    fn text(&mut self, text: &Text) {
        self.parts(&text.parts, text.span);
    }

    fn parts(&mut self, parts: &[Part], span: Span) {
        for part in parts {
            match part {
                Part::Bytes(_) => {}
                Part::Variable(name) => self.uses(name, span),
                Part::Times { parts, count } => {
                    self.parts(parts, span);
                    self.parts(std::slice::from_ref(count), span);
                }
            }
        }
    }

    fn pattern(&mut self, pattern: &Pattern) {
        for (name, _, _) in pattern_variables(&pattern.source) {
            self.uses(name, pattern.span);
        }
    }

    fn expectations(&mut self, all: &[Expectation]) {
        for expectation in all {
            match &expectation.matcher {
                Matcher::Line(text) | Matcher::Prefix(text) | Matcher::Bytes(text) => self.text(text),
                Matcher::Pattern(pattern) => self.pattern(pattern),
                Matcher::Eof | Matcher::Reset | Matcher::Truncated => {}
            }
        }
        // What a block captures is set behind it.
        for expectation in all {
            if let Matcher::Pattern(pattern) = &expectation.matcher {
                self.bound.extend(pattern.captures.iter().cloned());
            }
        }
    }

    pub(crate) fn statements(&mut self, statements: &[Statement]) {
        for statement in statements {
            match &statement.kind {
                Kind::Send { data: Data::Line(text) | Data::Bytes(text), .. } => self.text(text),
                Kind::Expect(one) | Kind::Optional(one) | Kind::Until(one) | Kind::Never(one) => {
                    self.expectations(std::slice::from_ref(one))
                }
                Kind::OneOf(all) | Kind::Unordered(all) => self.expectations(all),
                Kind::Repeat { count, body } => {
                    self.text(count);
                    self.statements(body);
                }
                Kind::Include { body, .. } => self.statements(body),
                Kind::Let { name, value } => {
                    self.text(value);
                    self.bound.insert(name.clone());
                }
                Kind::Act { action: Action::Connect(Some(address)) | Action::Refused(Some(address)), .. } => {
                    self.text(address);
                }
                Kind::Act { peer, action: Action::Listen } => {
                    self.bound.insert(listening_variable(peer));
                }
                Kind::Act { peer, action: Action::Accept } if !self.bound.contains(&listening_variable(peer)) => {
                    let title = format!("{} does not listen", peer_title(peer));
                    let diagnostic = Diagnostic::new(title, statement.span, "accepts here");
                    self.errors.push(diagnostic.help("`: listen` before it, with the same name"));
                }
                Kind::Server { name, command } => {
                    self.bound.extend([port_variable(name), TMP.to_owned()]);
                    let is_new = self.bound.insert("port".to_owned());
                    self.text(command);
                    if is_new && !name.is_empty() {
                        self.bound.remove("port");
                    }
                    self.servers.insert(name.clone());
                }
                Kind::OfServer { name, action } => {
                    if !self.servers.contains(name) {
                        let title = format!("{} was not started", server_title(name));
                        let help = if name.is_empty() {
                            "`server COMMAND` starts it"
                        } else {
                            "`server NAME = COMMAND` starts it"
                        };
                        self.errors.push(Diagnostic::new(title, statement.span, "unknown here").help(help));
                    }
                    if let ServerAction::Log(pattern) = action {
                        self.pattern(pattern);
                        self.bound.extend(pattern.captures.iter().cloned());
                    }
                }
                Kind::Send { data: Data::Hex(_) | Data::File { .. }, .. }
                | Kind::Act { .. }
                | Kind::Needs(_)
                | Kind::After(_)
                | Kind::Newline(_)
                | Kind::Timeout(_) => {}
            }
        }
    }
}
