//! JSON as Go's encoder writes it: `<`, `>` and `&` are escaped.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// On one line, without a line feed.
pub fn compact(value: &impl Serialize) -> String {
    escaped(serde_json::to_string(value).unwrap_or_default())
}

/// Indented by four spaces.
pub fn indented(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    // A vector takes every byte, and what is listed has no maps with other keys than text.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    escaped(String::from_utf8(bytes).unwrap_or_default())
}

/// Outside of strings JSON has none of these characters.
fn escaped(json: String) -> String {
    const SPECIAL: [(char, &str); 5] = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    SPECIAL
        .iter()
        .fold(json, |json, (character, escape)| match json.contains(*character) {
            true => json.replace(*character, escape),
            false => json,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_html_is_escaped() {
        let value = serde_json::json!([{"a": "<x & y>", "b": []}]);
        assert_eq!(compact(&value), r#"[{"a":"\u003cx \u0026 y\u003e","b":[]}]"#);
        assert_eq!(
            indented(&value),
            "[\n    {\n        \"a\": \"\\u003cx \\u0026 y\\u003e\",\n        \"b\": []\n    }\n]"
        );
    }
}
