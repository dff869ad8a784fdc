//! `-f K=V` of listings: values of one key are alternatives, keys hold together; of labels each must be there. What nothing can have is
//! refused: nobody is to take a slip for an empty list.

use std::collections::BTreeMap;

use crate::model::Rejection;

/// What can be filtered by.
pub struct Key {
    name: &'static str,
    /// The values that there are, and how they are called; any where there are none.
    values: (&'static [&'static str], &'static str),
}

impl Key {
    /// By any value.
    pub const fn any(name: &'static str) -> Self {
        Self { name, values: (&[], "") }
    }

    /// By these values, which are called so: `a state: up or down`.
    pub const fn of(name: &'static str, values: &'static [&'static str], called: &'static str) -> Self {
        Self { name, values: (values, called) }
    }
}

/// Filters whose keys and values are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Of `keys` alone.
    pub fn new(pairs: Vec<(String, String)>, keys: &[Key]) -> Result<Self, Rejection> {
        let mut filters = BTreeMap::<_, Vec<_>>::new();
        for (key, value) in pairs {
            let Some(known) = keys.iter().find(|known| known.name == key) else {
                let names: Vec<_> = keys.iter().map(|known| known.name).collect();
                return Err(Rejection::UnknownFilter(key, names.join(", ").into()));
            };
            let (values, called) = known.values;
            if !values.is_empty() && !values.contains(&value.as_str()) {
                return Err(Rejection::Malformed { given: value, wanted: called });
            }
            filters.entry(key).or_default().push(value);
        }
        Ok(Self(filters))
    }

    /// Whether all of them hold, given which single ones do.
    pub fn fit(&self, matches: impl Fn(&str, &str) -> bool) -> bool {
        self.0.iter().all(|(key, values)| match key.as_str() {
            "label" => values.iter().all(|value| matches(key, value)),
            _ => values.iter().any(|value| matches(key, value)),
        })
    }
}

/// Whether `KEY` or `KEY=VALUE` is among labels.
pub fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((label, value)) => labels.get(label).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &str)]) -> Result<Filters, Rejection> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let driver = Key::of("driver", &["bridge", "overlay"], "a driver: bridge or overlay");
        Filters::new(pairs.collect(), &[Key::any("name"), driver, Key::any("label")])
    }

    #[test]
    fn values_of_one_key_are_alternatives_and_labels_hold_together() {
        let labels = [("tier", "front"), ("zone", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = BTreeMap::from(labels);
        let matches = |key: &str, value: &str| match key {
            "label" => has_label(&labels, value),
            "name" => value == "blue",
            _ => value == "bridge",
        };
        let cases: [(&[(&str, &str)], bool); 7] = [
            (&[], true),
            (&[("name", "red"), ("name", "blue")], true),
            (&[("name", "blue"), ("driver", "overlay")], false),
            (&[("label", "tier=front"), ("label", "zone")], true),
            (&[("label", "tier=front"), ("label", "zone=b")], false),
            (&[("label", "tier=")], false),
            (&[("name", "red")], false),
        ];
        for (pairs, expected) in cases {
            assert_eq!(filters(pairs).unwrap().fit(matches), expected, "{pairs:?}");
        }
        let unknown = filters(&[("colour", "red")]).unwrap_err().to_string();
        assert_eq!(unknown, "`colour` is not something to filter by: name, driver, label");
        let impossible = filters(&[("driver", "brigde")]).unwrap_err().to_string();
        assert_eq!(impossible, "`brigde` is not a driver: bridge or overlay");
    }
}
