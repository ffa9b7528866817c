//! The command of a peer: words, split as a shell would, with placeholders for what the guest
//! needs.
//!
//! Words are split before placeholders are replaced, so that a command line with blanks stays one
//! argument.

use std::collections::BTreeMap;

/// The placeholders: `{kernel}`, `{initrd}`, `{cmdline}`, `{memory}` (MiB), `{cpus}`, `{disk}` (the
/// first disk).
pub const PLACES: [&str; 6] = ["kernel", "initrd", "cmdline", "memory", "cpus", "disk"];

/// The words of `template`, with placeholders replaced by `values`. `{{` and `}}` are literal
/// braces.
///
/// # Errors
/// What is wrong: no command, an open quote or brace, an unknown placeholder, or one without a
/// value for this guest.
pub fn command(template: &str, values: &BTreeMap<&str, String>) -> Result<Vec<String>, String> {
    let words =
        shell_words::split(template).map_err(|_| format!("unclosed quote in {template:?}"))?;
    if words.is_empty() {
        return Err("the command is missing".into());
    }
    words.iter().map(|word| fill(word, values)).collect()
}

fn fill(word: &str, values: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        filled += before;
        if let Some(after) = brace.strip_prefix("{{") {
            filled.push('{');
            rest = after;
        } else if let Some(after) = brace.strip_prefix("}}") {
            filled.push('}');
            rest = after;
        } else {
            let place = brace.strip_prefix('{').and_then(|it| it.split_once('}'));
            let (name, after) = place.ok_or_else(|| {
                format!("unmatched brace in {word:?} (a literal brace is written twice)")
            })?;
            filled += value(name, values)?;
            rest = after;
        }
    }
    Ok(filled + rest)
}

fn value<'a>(name: &str, values: &'a BTreeMap<&str, String>) -> Result<&'a str, String> {
    match values.get(name) {
        Some(value) => Ok(value),
        None if PLACES.contains(&name) => Err(format!("this guest has no {{{name}}}")),
        None => Err(format!(
            "unknown placeholder {{{name}}}, known are {}",
            PLACES.join(", ")
        )),
    }
}

#[cfg(test)]
#[path = "template_test.rs"]
mod tests;
