//! `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:?error}` in a file's values, and `$$` for a dollar sign.

use serde_json::Value;

use super::ComposeError;

/// Where variables are found.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts variables into every text below `value`. One that is not set is empty, and named in `warnings`.
pub fn interpolate(
    place: &str,
    value: &mut Value,
    variables: Variables<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), ComposeError> {
    match value {
        Value::String(text) => {
            *text = interpolated(text, variables, warnings).map_err(|why| ComposeError::wrong(place, why))?;
        }
        Value::Array(items) => {
            for item in items {
                interpolate(place, item, variables, warnings)?;
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                interpolate(&place, field, variables, warnings)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn interpolated(text: &str, variables: Variables<'_>, warnings: &mut Vec<String>) -> Result<String, String> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            (done, rest) = (done + "$", after);
            continue;
        }
        let (expression, after) = match rest.strip_prefix('{') {
            Some(braced) => braced.split_once('}').ok_or_else(|| format!("a `${{` of `{text}` is not closed"))?,
            None => rest.split_at(name_length(rest)),
        };
        done.push_str(&value_of(expression, variables, warnings).map_err(|why| format!("`{text}`: {why}"))?);
        rest = after;
    }
    Ok(done + rest)
}

/// The value of `NAME`, `NAME-default`, `NAME:-default`, `NAME?error` or `NAME:?error`: with the colon a variable that is empty
/// counts as one that is not set.
fn value_of(expression: &str, variables: Variables<'_>, warnings: &mut Vec<String>) -> Result<String, String> {
    let (name, rest) = expression.split_at(name_length(expression));
    if name.is_empty() {
        return Err("a `$` is not followed by the name of a variable; `$$` is a dollar sign".to_owned());
    }
    let (empty_counts, operator) = match rest.strip_prefix(':') {
        Some(operator) => (false, operator),
        None => (true, rest),
    };
    let value = variables(name).filter(|value| empty_counts || !value.is_empty());
    match (value, operator.split_at_checked(1)) {
        (Some(value), Some(("-" | "?", _))) => Ok(value),
        (None, Some(("-", default))) => Ok(default.to_owned()),
        (None, Some(("?", why))) => Err(format!("variable {name} is not set: {why}")),
        (Some(value), None) if empty_counts => Ok(value),
        (None, None) if empty_counts => {
            warnings.push(format!("variable {name} is not set: it is taken as empty"));
            Ok(String::new())
        }
        _ => Err(format!("`{expression}` is none of NAME, NAME:-default and NAME:?error")),
    }
}

/// Bytes of the name at the start of `text`.
fn name_length(text: &str) -> usize {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    if begins { end } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in_and_dollars_stay() {
        let cases = [
            ("plain", "plain"),
            ("$PORT:80", "8080:80"),
            ("${PORT}:80", "8080:80"),
            ("${NONE:-9}-${NONE-7}${PORT:-1}", "9-78080"),
            ("${EMPTY:-x}${EMPTY-y}", "x"),
            ("a$$b$$PORT", "a$b$PORT"),
            ("${PORT:?needed}", "8080"),
        ];
        for (text, expected) in cases {
            assert_eq!(interpolated(text, &variables, &mut Vec::new()), Ok(expected.to_owned()), "{text}");
        }
        let mut warnings = Vec::new();
        assert_eq!(interpolated("[$NONE]", &variables, &mut warnings), Ok("[]".to_owned()));
        assert_eq!(warnings, ["variable NONE is not set: it is taken as empty"]);
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        let cases = [
            ("${NONE:?say which}", "variable NONE is not set: say which"),
            ("${EMPTY:?x}", "variable EMPTY is not set"),
            ("${PORT", "is not closed"),
            ("costs 5$", "`$$` is a dollar sign"),
            ("$5", "`$$` is a dollar sign"),
            ("${PORT:}", "is none of NAME"),
            ("${PORT+x}", "is none of NAME"),
            ("${PORT/é}", "is none of NAME"),
        ];
        for (text, why) in cases {
            let error = interpolated(text, &variables, &mut Vec::new()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
