//! The suites that run in the Lab: real namespaces, real programs, real traffic. Root only; `cargo xtask test` runs them.

mod the_lab;
