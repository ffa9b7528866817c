//! The book: its links work, its diffs match the source, and its commands print what it shows
//! (`make test-docs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use manual::session::{check, dialog, steps};

/// What the commands run with here. mmdebstrap uses the mirror that this machine's own package
/// sources name, as the lab does: it may be the only one that the machine reaches. systemd gives up on
/// a login after 90 s, which may be little of a busy machine's time.
const PRELUDE: &str = r#"
mmdebstrap() (
    . "$PROJECT/lab/say.sh"
    . "$PROJECT/lab/apt.sh"
    retry "making a Debian guest" command mmdebstrap "$@" "$(debian_mirror)"
)
hartvisor() {
    command hartvisor "${@/console=ttyS0/console=ttyS0 systemd.default_device_timeout_sec=infinity}"
}
"#;

fn project() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().unwrap()
}

/// The pages: README.md and those in docs.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(project().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|it| it == "md"));
    pages.chain([project().join("README.md")]).collect()
}

/// The targets of a page's links to files, and of its pictures.
fn links(page: &str) -> Vec<String> {
    let targets = page
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let targets = targets.map(|(target, _)| target);
    let sources = page
        .split("src=\"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'));
    let all = targets.chain(sources.map(|(source, _)| source));
    all.filter(|target| !target.contains("://"))
        .map(str::to_owned)
        .collect()
}

/// As GitHub and mdBook make the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            let heading = |line: &str| {
                line.starts_with('#') && anchor(line.trim_start_matches('#')) == fragment
            };
            let has = || fs::read_to_string(&target).unwrap().lines().any(heading);
            assert!(fragment.is_empty() || has(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_page_of_docs_is_in_the_table_of_contents() {
    let contents = fs::read_to_string(project().join("docs/SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let of_contents = matches!(name, "SUMMARY.md" | "README.md");
        assert!(
            of_contents || contents.contains(&format!("({name})")),
            "{name}"
        );
    }
}

#[test]
fn every_line_of_a_diff_is_in_its_file() {
    let mut lines = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for diff in text.split("```diff\n").skip(1) {
            let (diff, _) = diff.split_once("```").unwrap();
            let (mut path, mut source) = ("", String::new());
            for line in diff.lines().filter(|line| !line.is_empty()) {
                if let Some(name) = line.strip_prefix("+++ ") {
                    (path, source) = (name, fs::read_to_string(project().join(name)).unwrap());
                    continue;
                }
                // What … stands for is not compared.
                let start = line[1..].split('…').next().unwrap().trim();
                let found = source.lines().any(|it| it.trim().starts_with(start));
                assert!(found, "{}: {path} has no line {start:?}", page.display());
                lines += 1;
            }
        }
    }
    assert!(lines > 0, "no page has a diff");
}

/// The paths in backticks, `{a,b}` in them expanded.
fn paths(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let expand = |path: &str| match path.split_once('{') {
        None => vec![path.to_owned()],
        Some((start, rest)) => {
            let (names, end) = rest.split_once('}').unwrap();
            let names = names.split(',');
            names.map(|name| format!("{start}{name}{end}")).collect()
        }
    };
    quoted.flat_map(expand).collect()
}

/// The source files in `directory` and below with unsafe code, but for tests.
fn with_unsafe_code(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            with_unsafe_code(&path, found);
            continue;
        }
        let name = path.strip_prefix(project()).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut code = text.lines().filter(|line| !line.trim().starts_with("//"));
        let kinds = [
            "unsafe {",
            "unsafe(",
            "unsafe impl",
            "unsafe fn",
            "unsafe extern",
        ];
        let is_unsafe = code.any(|line| kinds.iter().any(|kind| line.contains(kind)));
        if is_unsafe && !name.ends_with("_test.rs") {
            found.push(name.to_owned());
        }
    }
}

#[test]
fn every_file_with_unsafe_code_is_in_the_table_of_the_design() {
    let design = fs::read_to_string(project().join("docs/design.md")).unwrap();
    let (_, section) = design.split_once("## Unsafe code").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut table: Vec<_> = rows
        .flat_map(|row| paths(row.split('|').nth(1).unwrap()))
        .filter(|path| path.contains("/src/"))
        .collect();
    let mut found = Vec::new();
    for package in ["devices", "guest", "observe", "vmm"] {
        with_unsafe_code(&project().join(package).join("src"), &mut found);
    }
    table.sort();
    found.sort();
    assert_eq!(table, found);
}

/// Lines of code in `path`, a source file or a directory of them: without blank lines, comments
/// and tests.
fn code_lines(path: &Path) -> usize {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        return entries
            .map(|entry| code_lines(&entry.unwrap().path()))
            .sum();
    }
    let name = path.to_str().unwrap();
    if name.ends_with("_test.rs") || name.ends_with("_loom.rs") || name.ends_with("/rig.rs") {
        return 0;
    }
    let text = fs::read_to_string(path).unwrap();
    let product = text.split("\nmod tests {").next().unwrap();
    let lines = product.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[test]
fn every_room_is_within_its_budget() {
    let design = fs::read_to_string(project().join("docs/design.md")).unwrap();
    let (_, section) = design.split_once("## Budgets").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut rooms = 0;
    for row in section.lines().filter(|line| line.contains("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        let of = |cell: &str| -> usize {
            let paths = paths(cell).into_iter();
            paths.map(|path| code_lines(&project().join(path))).sum()
        };
        let lines = of(cells[2]) - of(cells[3]);
        let budget: usize = cells[4].replace(' ', "").parse().unwrap();
        let room = cells[1].trim();
        assert!(
            lines <= budget,
            "{room}: {lines} lines of code, allowed are {budget}"
        );
        println!("{room}: {lines} of {budget}");
        rooms += 1;
    }
    assert!(rooms > 0, "no room has a budget");
}

#[test]
#[ignore = "it needs what make builds, QEMU and the lab: make test-docs"]
fn what_commands_print_is_what_the_pages_say() {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let target = project().join(target);
    let programs = target.join("release");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let own = target.join("pages");
    let _ = fs::remove_dir_all(&own);
    let only = std::env::var("HARTVISOR_PAGE").unwrap_or_default();
    let mut count = 0;
    for page in pages()
        .iter()
        .filter(|page| page.ends_with(&only) || only.is_empty())
    {
        for step in steps(&fs::read_to_string(page).unwrap()) {
            let place = format!("{}:{}: $ {}", page.display(), step.line, step.command);
            eprintln!("{place}");
            let directory = match &step.directory {
                Some(name) => own.join(name),
                None => project(),
            };
            fs::create_dir_all(&directory).unwrap();
            let script = match &step.directory {
                Some(_) => format!("{PRELUDE}{}", step.command),
                None => step.command.clone(),
            };
            // A guest's disk is made, and booted, in minutes.
            let limit = step.directory.as_ref().map_or("600", |_| "3600");
            let mut command = Command::new("timeout");
            match step.terminal {
                false => command.args([limit, "bash", "-c", &format!("exec 2>&1\n{script}")]),
                true => command.args([limit, "script", "-qefc", &script, "/dev/null"]),
            };
            command
                .current_dir(directory)
                .env("PATH", &path)
                .env("SHELL", "/bin/bash")
                .env("PROJECT", project())
                .stdout(Stdio::piped());
            let result = if step.terminal {
                let program = command.stdin(Stdio::piped()).spawn().unwrap();
                dialog(&step.output, program).map(drop)
            } else {
                let output = command.stdin(Stdio::null()).output().unwrap();
                let printed = String::from_utf8_lossy(&output.stdout);
                check(&step.output, &printed).map_err(|why| (printed.into(), why))
            };
            if let Err((printed, why)) = result {
                panic!("{place}\n{why}; it printed\n{printed}");
            }
            count += 1;
        }
    }
    let _ = fs::remove_dir_all(&own);
    assert!(count > 0, "no page has a command that is run");
}
