//! Token in a build where nobody is asked for one.
//!
//! Not here: a build with the feature `console` or `http` (`token`).

/// None at all.
pub(crate) type Token = std::convert::Infallible;

pub(crate) fn replace(_: Option<&Token>, _: Option<&Token>) -> bool {
    false
}
