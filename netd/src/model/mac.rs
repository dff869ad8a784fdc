//! Link-layer addresses as text, the way they are stored and shown.

use netd_common::tuple::Mac;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Six pairs of hexadecimal digits with colons between.
pub fn format_mac(mac: Mac) -> String {
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}

/// The address written as six pairs of hexadecimal digits with colons or dashes between.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let bytes: [&str; 6] = parts.try_into().ok()?;
    if bytes.iter().any(|b| b.len() != 2 || !b.bytes().all(|c| c.is_ascii_hexdigit())) {
        return None;
    }
    Some(Mac(bytes.map(|b| u8::from_str_radix(b, 16).unwrap_or(0))))
}

/// For `#[serde(with = "mac")]`.
pub fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_mac(*mac))
}

/// For `#[serde(with = "mac")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_mac(&text).ok_or_else(|| D::Error::custom(format!("{text} is no link-layer address")))
}
