//! Record: what a line of the console says, an object of JSON, in the order in which it says it.
//!
//! Rule: nothing here knows a command; a console of another version is read as well.
//! Not here: how it looks (`show`).

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;

/// The fields of an object, in their order.
pub(super) type Fields = Vec<(String, Value)>;

/// A value of JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Value>),
    Record(Fields),
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Record(Fields),
    /// The command failed.
    Error(String),
    /// No JSON, or no object.
    Text(String),
}

impl Said {
    pub(super) fn new(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(Value::Record(fields)) => match error(&fields) {
                Some(message) => Self::Error(message.to_owned()),
                None => Self::Record(fields),
            },
            _ => match line.strip_prefix("error: ") {
                Some(message) => Self::Error(message.to_owned()),
                None => Self::Text(line.to_owned()),
            },
        }
    }
}

/// The message, if this is an error and not a record of something that has one.
fn error(fields: &[(String, Value)]) -> Option<&str> {
    let message = fields.iter().find_map(|(key, value)| value.text().filter(|_| key == "error"))?;
    fields.iter().all(|(key, _)| ["error", "word", "advice", "nearest"].contains(&&**key)).then_some(message)
}

/// Returns the value of a field.
pub(super) fn field<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    fields.iter().find_map(|(key, value)| (key == name).then_some(value))
}

/// The sessions of a block, and what else it says.
pub(super) fn block(fields: &[(String, Value)]) -> Option<(Fields, Vec<Fields>)> {
    let is_rows = |value: &Value| match value {
        Value::List(values) => values.iter().all(|value| matches!(value, Value::Record(_))),
        _ => false,
    };
    let at = fields.iter().position(|(name, value)| is_rows(value) && name == "sessions")?;
    let mut summary = fields.to_vec();
    let (_, rows) = summary.remove(at);
    let Value::List(rows) = rows else { return None };
    let rows = rows.into_iter().filter_map(|row| if let Value::Record(fields) = row { Some(fields) } else { None });
    Some((summary, rows.collect()))
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns a list of records that is not empty.
    pub(super) fn records(&self) -> Option<Vec<Fields>> {
        let Self::List(values) = self else { return None };
        let record = |value: &Value| if let Self::Record(fields) = value { Some(fields.clone()) } else { None };
        values.iter().map(record).collect::<Option<Vec<_>>>().filter(|records| !records.is_empty())
    }

    pub(super) fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { number.as_f64() } else { None }
    }

    /// Returns a number that is no fraction and not negative.
    pub(super) fn count(&self) -> Option<u64> {
        if let Self::Number(number) = self { number.as_u64() } else { None }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfValue)
    }
}

struct OfValue;

impl<'de> Visitor<'de> for OfValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Record(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_in_their_order() {
        let Said::Record(fields) = Said::new(r#"{"z":1,"a":[null,true,-2,0.5],"m":{"y":"","b":{}}}"#) else { panic!() };
        let keys: Vec<_> = fields.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["z", "a", "m"]);
        assert_eq!(field(&fields, "z").and_then(Value::count), Some(1));
        let inner = Value::Record(vec![
            ("y".to_owned(), Value::Text(String::new())),
            ("b".to_owned(), Value::Record(Vec::new())),
        ]);
        assert_eq!(field(&fields, "m"), Some(&inner));
    }

    #[test]
    fn an_error_is_no_record_that_has_one() {
        let error = |line| matches!(Said::new(line), Said::Error(_));
        assert!(error(r#"{"error":"no session 7","word":"7"}"#));
        assert!(error("error: too many consoles"));
        assert!(!error(r#"{"id":7,"reason":"failed","error":"broken pipe"}"#));
        assert!(!error(r#"{"error":null}"#));
        assert_eq!(Said::new("[1]"), Said::Text("[1]".to_owned()));
        assert_eq!(Said::new("{"), Said::Text("{".to_owned()));
    }
}
