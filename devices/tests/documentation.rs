//! The lists of hostile cases in docs/testing.md name tests that exist.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

/// The names of all test functions in the files of `folder` and those below.
fn tests(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            names.extend(tests(&path));
            continue;
        }
        let source = fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in source.lines() {
            if line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ") {
                if is_test {
                    names.extend(rest.split('(').next().map(str::to_owned));
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_test_named_in_the_list_of_hostile_cases_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../docs/testing.md")).unwrap();
    let mut existing = tests(&here.join("src"));
    existing.extend(tests(&here.join("tests")));

    let (_, list) = document.split_once("## Hostile guests").unwrap();
    let (list, _) = list.split_once("## The lab").unwrap();
    let mut rows = 0;
    let heads = ["| A guest tries", "| A front end tries", "| A back end"];
    let is_case =
        |line: &&str| line.starts_with("| ") && !heads.iter().any(|it| line.starts_with(it));
    for row in list.lines().filter(is_case) {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test in {row}");
        for name in named {
            assert!(
                existing.iter().any(|test| test == name),
                "no test is called {name}"
            );
        }
        rows += 1;
    }
    assert!(rows > 30, "only {rows} rows were found");
}
