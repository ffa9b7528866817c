//! The command of a peer: words as a shell would cut them, with places for what the guest needs.
//!
//! The words are cut before the places are filled, so that a command line with blanks stays one
//! argument.

use std::collections::BTreeMap;

/// What a place may name: `{kernel}`, `{initrd}`, `{cmdline}`, `{memory}` (MiB), `{cpus}`, `{disk}`
/// (the first disk).
pub const PLACES: [&str; 6] = ["kernel", "initrd", "cmdline", "memory", "cpus", "disk"];

/// The words of `template`, its places filled with `values`. `{{` and `}}` stand for the braces
/// themselves.
///
/// # Errors
/// What is wrong: no command, a quote or brace left open, a place that there is not, or one that
/// this guest has no value for.
pub fn command(template: &str, values: &BTreeMap<&str, String>) -> Result<Vec<String>, String> {
    let words =
        shell_words::split(template).map_err(|_| format!("a quote in {template:?} has no end"))?;
    if words.is_empty() {
        return Err("there is no command".into());
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
            let (name, after) = place
                .ok_or_else(|| format!("a brace in {word:?} stands alone (write it twice)"))?;
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
            "no place {{{name}}}, there are {}",
            PLACES.join(", ")
        )),
    }
}

#[cfg(test)]
#[path = "template_test.rs"]
mod tests;
