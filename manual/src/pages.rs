//! Man pages: clap_mangen's sections, and those that it does not have.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

/// Returns the names of the pages of `command` and its subcommands.
pub(super) fn names(command: &Command) -> Vec<String> {
    let own = command.get_display_name().unwrap_or(command.get_name());
    let below = command.get_subcommands().flat_map(names);
    std::iter::once(own.to_owned()).chain(below).collect()
}

/// Writes the pages of `command`, which is built, and its subcommands. `names` are all pages.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write(command: &mut Command, names: &[String], directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = directory.join(format!("{name}.1"));
    fs::write(file, page(command, names)?)?;
    let below = command.get_subcommands_mut();
    below
        .into_iter()
        .try_for_each(|command| write(command, names, directory))
}

fn page(command: &mut Command, names: &[String]) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // clap_mangen names options without their values.
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    writeln!(page, ".SH SYNOPSIS\n.nf")?;
    lines(&mut page, usage.lines().map(str::trim_start))?;
    writeln!(page, ".fi")?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    sections(&mut page, &after.unwrap_or_default())?;
    let own = command.get_display_name().unwrap_or(command.get_name());
    let others = names.iter().filter(|name| *name != own);
    let others: Vec<_> = others.map(|name| format!("{name}(1)")).collect();
    writeln!(page, ".SH SEE ALSO")?;
    lines(&mut page, std::iter::once(others.join(", ").as_str()))?;
    Ok(page)
}

/// Writes the text after the options. A line that begins a paragraph and ends with a colon is the
/// heading of a section.
fn sections(page: &mut Vec<u8>, text: &str) -> io::Result<()> {
    for paragraph in text.split("\n\n").filter(|it| !it.trim().is_empty()) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        match first.strip_suffix(':').filter(|_| !rest.is_empty()) {
            Some(heading) => {
                writeln!(page, ".SH {}\n.nf", heading.to_uppercase())?;
                lines(page, rest.lines())?;
                writeln!(page, ".fi")?;
            }
            None => {
                writeln!(page, ".PP")?;
                lines(page, paragraph.lines())?;
            }
        }
    }
    Ok(())
}

/// Writes lines of plain text, see groff(7).
fn lines<'a>(page: &mut Vec<u8>, lines: impl Iterator<Item = &'a str>) -> io::Result<()> {
    for line in lines {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        let guard = if line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        writeln!(page, "{guard}{line}")?;
    }
    Ok(())
}
