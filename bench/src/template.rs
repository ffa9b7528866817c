//! How to start a VMM: a file of arguments with placeholders for what differs between starts.
//!
//! The file has one argument per line, the program first. `{kernel}`, `{initrd}`, `{cmdline}`,
//! `{disk}`, `{memory}` (MiB), `{cpus}`, `{queues}` (of the disk), `{tap}` (an interface), `{passt}`
//! and `{vsock}` (sockets) and `{root}` (the VMM's own directory) are replaced, also inside an
//! argument. Empty lines and lines that start with `#` are skipped. A line that starts with
//! `hugepages:` applies only if the guest's memory uses huge pages, one with `pages:` only if not,
//! one with `stats:` only if the VMM is to keep statistics, and one with `tap:` or `passt:` only if
//! the guest has this network.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Selects the conditional lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The guest's memory uses huge pages.
    pub hugepages: bool,
    /// The VMM keeps statistics.
    pub stats: bool,
    /// The guest has a network by a tap interface, and a socket device if the VMM has one.
    pub tap: bool,
    /// The guest has a network by passt.
    pub passt: bool,
}

impl Wanted {
    /// Returns the argument in `line`, if it applies.
    fn line(self, line: &str) -> Option<&str> {
        let conditions = [
            ("hugepages:", self.hugepages),
            ("pages:", !self.hugepages),
            ("stats:", self.stats),
            ("tap:", self.tap),
            ("passt:", self.passt),
        ];
        for (prefix, counts) in conditions {
            if let Some(rest) = line.strip_prefix(prefix) {
                return counts.then_some(rest);
            }
        }
        Some(line)
    }
}

/// Returns the command of `template`.
///
/// # Errors
/// A placeholder has no value, or there is no command.
pub fn command(
    template: &str,
    values: &BTreeMap<&str, String>,
    wanted: Wanted,
) -> Result<Vec<String>> {
    let mut command = Vec::new();
    for line in template.lines().map(str::trim) {
        let Some(line) = wanted.line(line) else {
            continue;
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
stats:--stats
tap:--net
passt:--passt
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
        let command = command(TEMPLATE, &values(), Wanted::default()).unwrap();
        assert_eq!(
            command,
            ["/r/vmm", "--memory", "256M", "--cmdline", "a {b} quiet"]
        );
    }

    #[test]
    fn huge_pages_statistics_and_network_choose_lines() {
        let wanted = Wanted { hugepages: true, stats: true, tap: true, passt: false };
        let command = command(TEMPLATE, &values(), wanted).unwrap();
        assert_eq!(command[2], "256M,hugepages=on");
        assert_eq!(command[5..], ["--stats", "--net"]);
    }

    #[test]
    fn an_unknown_place_and_an_empty_template_are_refused() {
        assert!(command("{disc}", &values(), Wanted::default()).is_err());
        assert!(command("{root", &values(), Wanted::default()).is_err());
        assert!(command("# nothing", &values(), Wanted::default()).is_err());
    }
}
