//! Needs: the features that a script cannot do without. Where one is missing the script is skipped, not failed.
//!
//! Not here: what is done with it (`text`).

use std::collections::BTreeSet;

use crate::script::{
    ast::{Action, Kind, Statement},
    target,
};

/// The features of a target, besides those that are given from outside.
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

/// The features that statements need: those that they name, and those that they use.
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
