//! The page in Chromium, at the width of a desktop and of a phone: no warnings, each picture is
//! visible, nothing overflows. `lab/fetch browser` fetches Chromium; the first test needs the
//! builds of `make compare`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use compare::clock::Clock;
use compare::page::page;
use compare::plan::{Counts, Ending, Line, Memory, Run};
use compare::report::{Report, Seen, Setting};
use serde::Deserialize;

const RULER: &str = include_str!("support/ruler.html");

/// Width and height of a screen, in CSS pixels.
type Screen = (u32, u32);
const DESK: Screen = (1280, 1600);
const PHONE: Screen = (390, 2400);

/// How the browser shows a page.
#[derive(Debug, Deserialize)]
struct Look {
    width: f64,
    scroll_width: f64,
    /// Elements that overflow the screen and do not scroll.
    sticking_out: Vec<String>,
    pictures: Vec<Picture>,
    /// What the page fetched.
    loaded: Vec<String>,
    /// The messages on the browser's console.
    #[serde(skip)]
    console: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Picture {
    label: String,
    width: f64,
    height: f64,
    shown: bool,
    /// Texts that overflow the picture.
    cut_off: Vec<String>,
}

impl Look {
    /// Its first fault, if it has any.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.console.clone();
        faults.extend(self.loaded.iter().map(|it| format!("fetched {it}")));
        faults.extend(
            self.sticking_out
                .iter()
                .map(|it| format!("{it} sticks out")),
        );
        if self.scroll_width > self.width {
            faults.push(format!("{} px wide, of {}", self.scroll_width, self.width));
        }
        for it in &self.pictures {
            // Less would not be a visible picture.
            if !it.shown || it.width < 100.0 || it.height < 20.0 {
                let Picture { label, width, height, shown, .. } = it;
                faults.push(format!("'{label}': {width} x {height}, shown: {shown}"));
            }
            let cut = it.cut_off.iter();
            faults.extend(cut.map(|text| format!("'{}': {text} is cut off", it.label)));
        }
        faults
    }
}

/// A directory for pages, and a browser with a new profile.
struct Browser(tempfile::TempDir);

impl Browser {
    fn new() -> Browser {
        Browser(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The measurements of `page`.
    fn ruler(&self, page: &Path, (width, height): Screen) -> PathBuf {
        let ruler = RULER
            .replace("{page}", page.to_str().unwrap())
            .replace("{width}", &width.to_string())
            .replace("{height}", &height.to_string());
        let path = self.path("ruler.html");
        fs::write(&path, ruler).unwrap();
        path
    }

    fn open(&self, file: &Path, arguments: &[String]) -> Output {
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "120",
                "chromium",
                "--headless",
                "--no-sandbox",
            ])
            .args([
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
            ])
            .args(["--hide-scrollbars", "--enable-logging=stderr"])
            // So that the script may access the frame.
            .arg("--allow-file-access-from-files")
            .arg(format!(
                "--user-data-dir={}",
                self.path("profile").display()
            ))
            .args(arguments)
            .arg(format!("file://{}", file.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    fn look(&self, page: &Path, screen: Screen) -> Look {
        let output = self.open(&self.ruler(page, screen), &["--dump-dom".into()]);
        let dom = String::from_utf8(output.stdout).unwrap();
        let seen = dom
            .split_once("<pre id=\"seen\" hidden=\"\">")
            .expect(&dom)
            .1;
        let seen = seen.split_once("</pre>").expect(&dom).0;
        let seen = seen
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        let mut look: Look =
            serde_json::from_str(&seen).unwrap_or_else(|error| panic!("{error}: {dom}"));
        let messages = String::from_utf8_lossy(&output.stderr);
        let console = messages.lines().filter(|line| line.contains(":CONSOLE"));
        look.console = console.map(str::to_owned).collect();
        look
    }

    /// Saves a screenshot of `page`.
    fn picture(&self, page: &Path, screen: Screen, to: &Path) {
        let (width, height) = screen;
        let arguments = [
            format!("--screenshot={}", to.display()),
            format!("--window-size={width},{height}"),
        ];
        self.open(&self.ruler(page, screen), &arguments);
        let picture = fs::read(to).unwrap();
        // PNG: after 8 bytes the header's chunk, with width and height (PNG 11.2.1).
        let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
        assert_eq!(
            (&picture[1..4], number(16), number(20)),
            (&b"PNG"[..], width, height)
        );
    }
}

fn target() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    project.join(target).canonicalize().unwrap()
}

#[test]
fn a_page_of_our_guest_is_whole_on_a_desk_and_on_a_phone() {
    let browser = Browser::new();
    let target = target();
    let program = browser.path("hartvisor-compare");
    fs::copy(env!("CARGO_BIN_EXE_hartvisor-compare"), &program).unwrap();
    symlink(target.join("release/hartvisor"), browser.path("hartvisor")).unwrap();
    fs::write(browser.path("disk"), vec![0; 1 << 20]).unwrap();
    let written = browser.path("page.html");
    let output = Command::new(program)
        .current_dir(browser.0.path())
        .args([
            "--runs",
            "1",
            "--disk",
            "disk,serial=x",
            "--timeout",
            "240",
            "--html",
        ])
        .arg(&written)
        .arg("--kernel")
        .arg(target.join("riscv64gc-unknown-none-elf/release/guest"))
        .arg("--lab")
        .arg(format!(
            "{}/../lab/run --aia-guests 2",
            env!("CARGO_MANIFEST_DIR")
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let kept = target.join("compare/browser");
    fs::create_dir_all(&kept).unwrap();
    for (name, screen) in [("desk.png", DESK), ("phone.png", PHONE)] {
        let look = browser.look(&written, screen);
        assert_eq!(look.faults(), [""; 0], "{name}");
        assert_eq!(look.width, f64::from(screen.0), "{name}");
        // Two groups of three pictures, and four of counts.
        assert_eq!(look.pictures.len(), 10, "{name}: {look:?}");
        browser.picture(&written, screen, &kept.join(name));
    }
}

#[test]
fn long_names_many_ways_and_nothing_at_all_fit_a_phone() {
    let browser = Browser::new();
    for (name, report) in [
        ("long", long()),
        ("nothing", Report::new(setting("guest"), Vec::new())),
    ] {
        let path = browser.path(&format!("{name}.html"));
        fs::write(&path, page(&report).unwrap()).unwrap();
        for screen in [DESK, PHONE] {
            let look = browser.look(&path, screen);
            assert_eq!(look.faults(), [""; 0], "{name}, {screen:?}");
            assert_eq!(
                look.pictures.is_empty(),
                name == "nothing",
                "{name}: {look:?}"
            );
        }
    }
}

/// Each of these faults is detected by the tests above.
#[test]
fn the_browser_notices_each_fault() {
    let browser = Browser::new();
    let faults = |body| {
        let path = browser.path("page.html");
        let page = format!("<!DOCTYPE html><title>x</title><body style='margin: 0'>{body}");
        fs::write(&path, page).unwrap();
        browser.look(&path, PHONE).faults()
    };
    // A wide element that scrolls is not a fault.
    let scrolls = "<div style='overflow: auto'><p style='width: 500px'>wide</p></div>";
    assert_eq!(faults(scrolls), [""; 0]);
    for (body, fault) in [
        (
            "<svg width='200' height='100'><path d='nonsense'/></svg>",
            "nonsense",
        ),
        (
            "<svg width='200' height='0' aria-label='flat'></svg>",
            "'flat': 200 x 0, shown: true",
        ),
        (
            "<svg width='200' height='100' aria-label='gone' style='visibility: hidden'></svg>",
            "shown: false",
        ),
        (
            "<svg width='200' height='100' aria-label='edge'><text x='190' y='50'>long</text></svg>",
            "is cut off",
        ),
        ("<p style='width: 500px'>wide</p>", "P \"wide\" sticks out"),
        (
            "<img src='http://127.0.0.1:65535/'>",
            "fetched http://127.0.0.1",
        ),
        ("<script>no_such_function()</script>", "no_such_function"),
    ] {
        let faults = faults(body);
        assert!(
            faults.iter().any(|it| it.contains(fault)),
            "{body}: {faults:?}"
        );
    }
}

fn setting(kernel: &str) -> Setting {
    Setting {
        kernel: kernel.into(),
        cmdline: "word".repeat(100),
        cpus: 64,
        memory: 64 << 30,
        runs: 3,
        marker: None,
        ignore: Vec::new(),
    }
}

/// From a nanosecond to days.
fn percentiles(salt: u64) -> String {
    let numbers = (0..12).map(|n| format!("p{}.{salt}", 50 + 4 * n));
    let values = (0..12).map(|n| 10_f64.powi(n - 3));
    let both = numbers.zip(values).map(|(name, us)| format!("{name} {us}"));
    format!(
        "{}, max 999999999999 us",
        both.collect::<Vec<_>>().join(", ")
    )
}

/// A report of the largest width: eight ways in three groups, names and lines without a blank,
/// hours and terabytes.
fn long() -> Report {
    let run = |salt: u64, counts| Run {
        ending: Ending::Status(i32::from(salt == 3)),
        exit: 3_600_000_000 + salt * 1_000_000_000,
        lines: (1..200)
            .map(|at| Line {
                at: at * 17_000_000,
                text: match at {
                    100 => format!("# latency {}: {}", "kind".repeat(40), percentiles(salt)),
                    _ => format!("{at}{}", "line".repeat(if salt == 5 { 60 } else { 50 })),
                },
            })
            .collect(),
        messages: "message".repeat(50),
        counts,
    };
    let counts = || {
        Some(Counts {
            memory: Some(Memory { pss: 99_999_999_999, anonymous: 99_999_999_999 }),
            stats: None,
        })
    };
    let way = |salt: u64| Seen {
        name: format!("{salt}-{}", "name".repeat(10)),
        clock: Clock::ALL[usize::try_from(salt % 3).unwrap()],
        ours: salt < 3,
        command: vec!["/a/long/path".repeat(20), "--option".into()],
        runs: match salt {
            7 => Err("because".repeat(40)),
            _ => Ok(vec![
                run(salt, None),
                run(salt + 1, None),
                run(salt, counts()),
            ]),
        },
    };
    let mut ways: Vec<Seen> = (0..8).map(way).collect();
    ways.sort_by_key(|way| Clock::ALL.iter().position(|clock| *clock == way.clock));
    Report::new(setting(&"kernel".repeat(30)), ways)
}
