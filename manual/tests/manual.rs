//! Man pages and completions from the command line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A directory for this test.
fn written(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    manual::write(&directory).unwrap();
    directory
}

#[test]
fn every_option_has_its_place_in_a_man_page() {
    let directory = written("pages");
    let command = manual::command();
    for command in command.get_subcommands() {
        let page = directory.join(format!("man1/hartvisor-{}.1", command.get_name()));
        let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        for option in command.get_arguments().filter(|it| !it.is_hide_set()) {
            let Some(name) = option.get_long() else {
                continue;
            };
            let name = format!("\\-\\-{}", name.replace('-', "\\-"));
            assert!(page.contains(&name), "{name} is not in {page}");
        }
    }
}

#[test]
fn a_page_has_the_sections_of_a_man_page() {
    let directory = written("sections");
    let page = fs::read_to_string(directory.join("man1/hartvisor-run.1")).unwrap();
    for part in [
        "hartvisor run [OPTIONS]\n",
        ".SH EXAMPLES\n",
        ".SH SEE ALSO\nhartvisor(1), ",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(!page.contains(".SH EXTRA"), "{page}");
    let page = fs::read_to_string(directory.join("man1/hartvisor.1")).unwrap();
    for part in [
        ".SH EXIT STATUS\n",
        ".SH ENVIRONMENT\n",
        ".SH FILES\n",
        "hartvisor\\-trace\\-show(1)",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
}

#[test]
fn bash_understands_its_completions() {
    let script = written("bash").join("completions/hartvisor.bash");
    let checked = Command::new("bash")
        .arg("-n")
        .arg(&script)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let script = fs::read_to_string(script).unwrap();
    assert!(
        script.contains("--kernel") && script.contains("--peer"),
        "{script}"
    );
}
