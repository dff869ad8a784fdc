//! A mapping of the file, taken apart key by key, so that what nobody took is known.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ComposeError;

/// A mapping, and where it stands.
pub struct Section {
    place: String,
    rest: Map<String, Value>,
}

impl Section {
    /// The mapping `value`; an absent one is empty.
    pub fn new(place: impl Into<String>, value: Value) -> Result<Self, ComposeError> {
        let place = place.into();
        match value {
            Value::Object(rest) => Ok(Self { place, rest }),
            Value::Null => Ok(Self { place, rest: Map::new() }),
            _ => Err(ComposeError::wrong(&place, "it is not a mapping")),
        }
    }

    /// Where it stands.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where one of its keys stands.
    pub fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// Takes a value out of it; an empty one is none.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.rest.remove(key).filter(|value| !value.is_null())
    }

    /// Takes what makes no difference.
    pub fn pass_over(&mut self, keys: &[&str]) {
        self.rest.retain(|key, _| !keys.contains(&key.as_str()));
    }

    /// A text. Numbers and truth values are the text that they are written as.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, ComposeError> {
        let place = self.place_of(key);
        self.take(key).map(|value| text(&place, &value)).transpose()
    }

    /// A truth value.
    pub fn truth(&mut self, key: &str) -> Result<Option<bool>, ComposeError> {
        let place = self.place_of(key);
        let wrong = || ComposeError::wrong(&place, "it is neither true nor false");
        self.take(key)
            .map(|value| match value {
                Value::Bool(truth) => Ok(truth),
                Value::String(text) => text.parse().map_err(|_| wrong()),
                _ => Err(wrong()),
            })
            .transpose()
    }

    /// Texts: a list of them, or one alone.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>, ComposeError> {
        let place = self.place_of(key);
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| text(&place, item)).collect(),
            Some(value) => Ok(vec![text(&place, &value)?]),
        }
    }

    /// Pairs: a mapping, or a list of `KEY=VALUE`. A key without a value has `None`.
    pub fn pairs(&mut self, key: &str) -> Result<BTreeMap<String, Option<String>>, ComposeError> {
        let place = self.place_of(key);
        match self.take(key) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => fields
                .into_iter()
                .map(|(key, value)| Ok((key, if value.is_null() { None } else { Some(text(&place, &value)?) })))
                .collect(),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    let item = text(&place, item)?;
                    let pair = item.split_once('=').map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
                    Ok(pair.unwrap_or((item, None)))
                })
                .collect(),
            Some(_) => Err(ComposeError::wrong(&place, "it is neither a mapping nor a list")),
        }
    }

    /// The mapping under a key.
    pub fn section(&mut self, key: &str) -> Result<Self, ComposeError> {
        Self::new(self.place_of(key), self.take(key).unwrap_or(Value::Null))
    }

    /// Everything that is in it.
    pub fn entries(self) -> impl Iterator<Item = (String, Value)> {
        self.rest.into_iter()
    }

    /// Refuses what was not taken, but for extensions (`x-…`), and what `ignored` names, of which `warnings` tells.
    pub fn finished(self, ignored: &[&str], warnings: &mut Vec<String>) -> Result<(), ComposeError> {
        let rest: Vec<String> =
            self.rest.into_iter().map(|(key, _)| key).filter(|key| !key.starts_with("x-")).collect();
        let (passed_over, unknown): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|key| ignored.contains(&key.as_str()));
        let place = if self.place.is_empty() { "the file".to_owned() } else { self.place };
        if let Some(key) = unknown.into_iter().next() {
            return Err(ComposeError::UnknownKey { place, key });
        }
        if !passed_over.is_empty() {
            warnings.push(format!("{place}: passed over, as netd is about networks: {}", passed_over.join(", ")));
        }
        Ok(())
    }
}

/// The text of a scalar.
pub fn text(place: &str, value: &Value) -> Result<String, ComposeError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => Err(ComposeError::wrong(place, "it is not a text")),
    }
}
