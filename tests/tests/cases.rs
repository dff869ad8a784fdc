//! `tests/CASES.md` says which test holds which edge case: here it is held to that.

use std::{fs, path::PathBuf};

/// Cases of the table.
const CASES: std::ops::RangeInclusive<usize> = 1..=54;

#[test]
fn every_edge_case_has_its_line_and_every_test_that_is_named_exists() {
    let table = fs::read_to_string(workspace().join("tests/CASES.md")).expect("the table is there");
    let cells = |line| -> Vec<&str> { str::trim_matches(line, '|').split('|').map(str::trim).collect() };
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).map(cells).collect();
    let rows: Vec<_> = rows.iter().filter_map(|row| Some((row[0].parse::<usize>().ok()?, row))).collect();
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, CASES.collect::<Vec<_>>(), "each case has one line, in order");

    let mut wrong = Vec::new();
    for (number, row) in rows {
        let [_, _, held, missing] = row[..] else { panic!("case {number} has four columns: {row:?}") };
        let tests: Vec<_> = held.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && missing.is_empty() {
            wrong.push(format!("{number}: neither a test nor a reason why there is none"));
        }
        wrong
            .extend(tests.iter().filter(|test| !exists(test)).map(|test| format!("{number}: there is no test {test}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_name_that_is_no_tests_is_found_out() {
    assert!(exists("cases::a_name_that_is_no_tests_is_found_out"));
    for wrong in ["cases::exists", "cases::nothing", "nowhere::nothing", "world::edges::nothing", "nothing"] {
        assert!(!exists(wrong), "{wrong}");
    }
}

/// Whether a source file has the test that a path like `world::edges::name` names.
fn exists(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else { return false };
    let mut parts: Vec<_> = module.split("::").collect();
    let root = match parts[0] {
        krate @ ("netd" | "netd_common") => {
            parts.remove(0);
            workspace().join(krate.replace('_', "-")).join("src")
        }
        _ => workspace().join("tests/tests"),
    };
    let file = parts.iter().fold(root, |path, part| path.join(part));
    let places = [file.with_extension("rs"), file.join("mod.rs"), file.join("main.rs"), file.join("tests.rs")];
    places.iter().filter_map(|place| fs::read_to_string(place).ok()).any(|source| has_test(&source, name))
}

/// Whether a function of this name stands below a `#[test]`, with no other item in between.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    lines.iter().enumerate().filter(|(_, line)| line.starts_with(&head)).any(|(at, _)| {
        lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
            .any(|line| *line == "#[test]")
    })
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
