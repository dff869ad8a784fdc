//! House rules for single files, as functions of their text.

use std::path::Path;

use super::Finding;

/// What is against a rule in the file `path` of the checkout. `private` are beginnings of paths of a machine.
pub fn findings(path: &str, text: &str, private: &[String]) -> Vec<Finding> {
    let finding = |line: usize, what: String| Finding { path: path.to_owned(), line, what };
    let mut found = Vec::new();
    let is_rust = path.ends_with(".rs");
    if is_rust && !text.starts_with("//!") {
        found.push(finding(1, "says nothing of what it is for: open it with `//!`".to_owned()));
    }
    for (line, content) in (1..).zip(text.lines()) {
        if content.ends_with([' ', '\t', '\r']) {
            found.push(finding(line, "white space at the end of the line".to_owned()));
        }
        if let Some(path) = private.iter().find(|path| names_path(content, path)) {
            found.push(finding(line, format!("names a path of somebody's machine ({path})")));
        }
    }
    if is_rust {
        found.extend(allows_without_reason(text).map(|line| finding(line, "`allow` without a reason".to_owned())));
    }
    found
}

/// Beginnings of paths that hold on one machine only: the checkout, the home of whoever works in it, homes as such.
pub fn private_paths(root: &Path, home: Option<&str>) -> Vec<String> {
    let home = home.filter(|home| home.len() > 1).map(|home| format!("{}/", home.trim_end_matches('/')));
    let homes = ["home", "Users"].map(|directory| format!("/{directory}/"));
    std::iter::once(root.display().to_string()).chain(home).chain(homes).collect()
}

/// Whether `content` has `path` where an absolute path begins, not as the end of another.
fn names_path(content: &str, path: &str) -> bool {
    let begins = |at: usize| !content[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}/".contains(c));
    content.match_indices(path).any(|(at, _)| begins(at))
}

/// Lines of attributes that allow something and do not say why.
fn allows_without_reason(text: &str) -> impl Iterator<Item = usize> {
    let opens = |line: &str| ["#[allow(", "#![allow("].iter().any(|start| line.trim_start().starts_with(start));
    let lines: Vec<_> = text.lines().collect();
    let attributes = (0..lines.len()).filter(|at| opens(lines[*at])).map(|at| (at + 1, whole_attribute(&lines[at..])));
    let found: Vec<_> = attributes.filter(|(_, text)| !text.contains("reason")).map(|(line, _)| line).collect();
    found.into_iter()
}

/// An attribute that may go over several lines.
fn whole_attribute(lines: &[&str]) -> String {
    let end = lines.iter().position(|line| line.contains(")]")).unwrap_or(0);
    lines[..=end].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let private = private_paths(Path::new("/src/checkout"), Some("/h/jane"));
        findings(path, text, &private).into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    fn lines(path: &str, text: &str) -> Vec<usize> {
        found(path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_rust_file_opens_with_what_it_is_for() {
        assert_eq!(lines("a.rs", "//! Says what it is for.\n"), [0; 0]);
        assert_eq!(lines("a.rs", "use std::fs;\n"), [1]);
        assert_eq!(lines("a.sh", "echo\n"), [0; 0]);
    }

    #[test]
    fn no_line_ends_with_white_space() {
        assert_eq!(lines("a.md", "one\n\ntwo\n"), [0; 0]);
        assert_eq!(lines("a.md", "one\ntwo \n\t\n"), [2, 3]);
    }

    #[test]
    fn no_line_names_a_path_of_a_machine() {
        assert_eq!(lines("a.md", "see /usr/bin, $HOME/x, a/src/checkout and tests/src/lib.rs\n"), [0; 0]);
        assert_eq!(lines("a.md", "see /src/checkout/x\nand \"/h/jane/y\"\n"), [1, 2]);
        let home = format!("in /{}/joe/z\n", "home");
        assert_eq!(lines("a.md", &home), [1]);
    }

    #[test]
    fn what_is_allowed_has_a_reason() {
        assert_eq!(lines("a.rs", "//! A.\n#[allow(\n    dead_code,\n    reason = \"why\"\n)]\n"), [0; 0]);
        assert_eq!(lines("a.rs", "//! A.\n#[allow(dead_code)]\nfn f(reason: u8) {}\n"), [2]);
    }
}
