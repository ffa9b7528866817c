//! How a VMM is started: a file of arguments with places for what differs from start to start.
//!
//! One argument a line, the program first. `{kernel}`, `{initrd}`, `{cmdline}`, `{disk}`, `{memory}` (MiB), `{cpus}`, `{queues}` (of the
//! disk) and `{root}` (the VMM's own folder) are replaced, within an argument too. Empty lines and lines that begin with `#` are skipped. A line that
//! begins with `hugepages:` counts only where the guest's memory is to be of huge pages, one with `pages:` only elsewhere.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// The command of `template`.
///
/// # Errors
/// A place that no value is for, or no command at all.
pub fn command(
    template: &str,
    values: &BTreeMap<&str, String>,
    hugepages: bool,
) -> Result<Vec<String>> {
    let mut command = Vec::new();
    for line in template.lines().map(str::trim) {
        let line = match (line.strip_prefix("hugepages:"), line.strip_prefix("pages:")) {
            (Some(line), _) if hugepages => line,
            (_, Some(line)) if !hugepages => line,
            (None, None) => line,
            _ => continue,
        };
        if !line.is_empty() && !line.starts_with('#') {
            command.push(fill(line.trim(), values)?);
        }
    }
    if command.is_empty() {
        bail!("the template has no command");
    }
    Ok(command)
}

fn fill(line: &str, values: &BTreeMap<&str, String>) -> Result<String> {
    let mut filled = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            bail!("no }} in '{line}'");
        };
        let Some(value) = values.get(name) else {
            bail!("'{line}': there is no {{{name}}}, only {:?}", values.keys());
        };
        filled += before;
        filled += value;
        rest = after;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "
# a comment
{root}/vmm
--memory
pages:{memory}M
hugepages: {memory}M,hugepages=on
--cmdline
{cmdline} quiet
";

    fn values() -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("root", "/r".into()),
            ("memory", "256".into()),
            ("cmdline", "a {b}".into()),
        ])
    }

    #[test]
    fn places_are_filled_once() {
        let command = command(TEMPLATE, &values(), false).unwrap();
        assert_eq!(
            command,
            ["/r/vmm", "--memory", "256M", "--cmdline", "a {b} quiet"]
        );
    }

    #[test]
    fn huge_pages_choose_lines() {
        let command = command(TEMPLATE, &values(), true).unwrap();
        assert_eq!(command[2], "256M,hugepages=on");
    }

    #[test]
    fn an_unknown_place_and_an_empty_template_are_refused() {
        assert!(command("{disc}", &values(), false).is_err());
        assert!(command("{root", &values(), false).is_err());
        assert!(command("# nothing", &values(), false).is_err());
    }
}
