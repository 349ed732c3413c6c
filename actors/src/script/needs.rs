//! What a script needs, and whether it is there: a script that cannot run here is skipped, not failed.
//!
//! Not here: what is done with it (`text`).

use std::collections::BTreeSet;

use crate::script::{
    ast::{Action, Kind, Statement},
    target,
};

/// What is there, whatever is given from outside.
pub(crate) fn features(target: &target::Kind) -> BTreeSet<&'static str> {
    let mut features = BTreeSet::new();
    match target {
        target::Kind::Memory(_) => features.extend(["memory"]),
        target::Kind::Address(address) => features.extend([address.transport()]),
        target::Kind::Server(..) | target::Kind::None => features.extend(["tcp"]),
    }
    if !matches!(target, target::Kind::Memory(_)) {
        features.extend(["processes", "addresses"]);
        #[cfg(feature = "script-tls")]
        features.insert("tls");
    }
    features
}

/// What these statements need: what they say, and what they cannot do without.
pub(crate) fn needs<'a>(statements: &'a [Statement], needs: &mut Vec<&'a str>) {
    for statement in statements {
        match &statement.kind {
            Kind::Needs(names) => needs.extend(names.iter().map(String::as_str)),
            Kind::Server { .. } => needs.push("processes"),
            Kind::Act { action: Action::Connect(Some(_)) | Action::Refused(Some(_)) | Action::Listen, .. } => {
                needs.push("addresses");
            }
            Kind::Repeat { body, .. } | Kind::Include { body, .. } => self::needs(body, needs),
            _ => {}
        }
    }
}
