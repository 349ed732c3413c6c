//! Seconds: how a time is serialized, as a number of seconds with its fraction.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serializer;

pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The same of a moment: seconds since 1970.
pub(crate) fn since_1970<S: Serializer>(moment: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = moment.map(|moment| match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    });
    serde::Serialize::serialize(&seconds, serializer)
}
