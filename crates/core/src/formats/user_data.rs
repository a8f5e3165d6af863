//! Data that the user attaches to a backup.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Any JSON, as its text: parsed, a text of some kilobytes can take a hundred times as much.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(String);

impl UserData {
    /// Of a text that is JSON. None for null.
    pub fn of_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        (is_json && text != "null").then(|| UserData(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parsed.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<Value> for UserData {
    fn from(value: Value) -> Self {
        UserData(value.to_string())
    }
}

impl fmt::Display for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({})", self.0)
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

/// For texts of one's own; [`crate::formats::Sentinel::parse`] takes the text as it stands.
impl<'de> Deserialize<'de> for UserData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(UserData::from)
    }
}
