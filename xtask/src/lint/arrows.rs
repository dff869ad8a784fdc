//! The arrows between our crates and modules: who may import whom, as a function of a file's text.
//!
//! Code for tests only (after `#[cfg(test)]`) imports what it likes.

use super::Finding;

/// Crates of the workspace and those that touch the world, which the packet logic is free of.
const NOT_IN_COMMON: [&str; 7] = ["aya", "netd", "netd_ebpf", "netd_tests", "rtnetlink", "tokio", "xtask"];
/// Modules of the daemon that decide and touch nothing.
const PURE: [&str; 10] =
    ["cluster", "dns", "doctor", "exposure", "firewall", "ipam", "model", "plan", "reconcile", "store"];
/// What those are free of.
const NOT_IN_PURE: [&str; 9] = [
    "aya",
    "crate::api",
    "crate::cli",
    "crate::daemon",
    "crate::dataplane",
    "crate::host",
    "crate::link",
    "rtnetlink",
    "tokio",
];
/// Modules that talk with other hosts, and with nothing of this one.
const OUTWARD: [&str; 2] = ["etcd", "membership"];
/// What those are free of.
const NOT_IN_OUTWARD: [&str; 9] = [
    "aya",
    "crate::api",
    "crate::cli",
    "crate::daemon",
    "crate::dataplane",
    "crate::host",
    "crate::link",
    "crate::store",
    "rtnetlink",
];
/// Modules that reach the kernel through `host` alone.
const FRONTS: [&str; 3] = ["api", "cli", "daemon"];
/// What those are free of.
const NOT_IN_FRONTS: [&str; 4] = ["aya", "crate::dataplane", "crate::link", "rtnetlink"];

/// Imports of the file `path` of the checkout that go against the arrows.
pub fn findings(path: &str, text: &str) -> Vec<Finding> {
    let (module, forbidden) = rules(path);
    if forbidden.is_empty() {
        return Vec::new();
    }
    let finding = |line, what: &str| Finding {
        path: path.to_owned(),
        line,
        what: format!("`{}` must not import `{what}`", module.join("::")),
    };
    let imports = imports(text).into_iter().map(|(line, import)| (line, absolute(&import, &module)));
    let mut found: Vec<_> = imports
        .filter_map(|(line, import)| {
            forbidden.iter().find(|what| is_within(&import, what)).map(|what| finding(line, what))
        })
        .collect();
    found.dedup();
    found
}

/// The module that `path` is, and what it must not import.
fn rules(path: &str) -> (Vec<String>, &'static [&'static str]) {
    if path.starts_with("netd-common/src/") {
        return (vec!["netd-common".to_owned()], &NOT_IN_COMMON);
    }
    let Some(module) = path.strip_prefix("netd/src/").and_then(|path| path.strip_suffix(".rs")) else {
        return (Vec::new(), &[]);
    };
    let parts = module.split('/').filter(|part| *part != "mod");
    let module: Vec<_> = std::iter::once("crate").chain(parts).map(str::to_owned).collect();
    let forbidden: &[&str] = match module.get(1).map(String::as_str) {
        Some(top) if PURE.contains(&top) => &NOT_IN_PURE,
        Some(top) if OUTWARD.contains(&top) => &NOT_IN_OUTWARD,
        Some(top) if FRONTS.contains(&top) => &NOT_IN_FRONTS,
        _ => &[],
    };
    (module, forbidden)
}

/// Every path that the code names, one a leaf of a `use` tree, with its line. Comments and literals are passed over.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code = code_only(text);
    let mut found = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut line = 1;
    for c in code.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => path.push(c),
            '{' if path.ends_with("::") => prefixes.push(std::mem::take(&mut path)),
            _ => {
                let word = std::mem::take(&mut path);
                if word.contains("::") || !prefixes.is_empty() && !word.is_empty() {
                    found.push((line, format!("{}{word}", prefixes.concat())));
                }
                if c == '}' {
                    prefixes.pop();
                }
            }
        }
        line += usize::from(c == '\n');
    }
    found
}

/// `text` up to its tests, without comments and string literals, its lines kept.
fn code_only(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    lines.map(|line| without_strings(line.split("//").next().unwrap_or_default()) + "\n").collect()
}

fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect()
}

/// `import` from the root of its crate, for a file that is `module`.
fn absolute(import: &str, module: &[String]) -> String {
    let mut base = module;
    let mut rest = import;
    if let Some(inner) = rest.strip_prefix("self::") {
        return format!("{}::{inner}", base.join("::"));
    }
    while let Some(outer) = rest.strip_prefix("super::") {
        rest = outer;
        base = &base[..base.len().saturating_sub(1)];
    }
    if rest.len() == import.len() { import.to_owned() } else { format!("{}::{rest}", base.join("::")) }
}

fn is_within(import: &str, what: &str) -> bool {
    let import = import.strip_prefix("::").unwrap_or(import);
    import.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        findings(path, text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_packet_logic_imports_none_of_our_crates() {
        assert_eq!(lines("netd-common/src/nat.rs", "//! netd::model\nuse crate::tuple::Tuple;\n"), [0; 0]);
        assert_eq!(lines("netd-common/src/nat.rs", "use bytemuck::Pod;\nuse netd::model::Model;\n"), [2]);
    }

    #[test]
    fn what_decides_imports_nothing_that_acts() {
        let good =
            "use std::fmt;\nuse crate::{model::Model, plan::plan};\n// tokio::spawn\nconst X: &str = \"aya::Ebpf\";\n";
        assert_eq!(lines("netd/src/reconcile/kernel.rs", good), [0; 0]);
        let bad = "use std::fmt;\nuse crate::{\n    model::Model,\n    dataplane::{Maps, Hook},\n};\nfn f() { tokio::spawn(g()) }\n";
        assert_eq!(lines("netd/src/reconcile/kernel.rs", bad), [4, 6]);
    }

    #[test]
    fn the_daemon_and_its_doors_reach_the_kernel_through_host() {
        assert_eq!(lines("netd/src/daemon/mod.rs", "use crate::host::Host;\nuse tokio::task;\n"), [0; 0]);
        assert_eq!(lines("netd/src/daemon/mod.rs", "use super::link::Links;\n"), [1]);
        assert_eq!(lines("netd/src/api.rs", "fn f() -> crate::dataplane::Maps { todo() }\n"), [1]);
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another() {
        assert_eq!(lines("netd/src/api.rs", "use crate::linkage::A;\nuse self::link::B;\n"), [0; 0]);
    }

    #[test]
    fn tests_import_what_they_like() {
        assert_eq!(
            lines("netd/src/plan.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use tokio::test;\n}\n"),
            [0; 0]
        );
    }

    #[test]
    fn modules_without_a_rule_import_what_they_like() {
        assert_eq!(lines("netd/src/host.rs", "use crate::link::A;\nuse tokio::task;\n"), [0; 0]);
    }
}
