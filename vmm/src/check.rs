//! `hartvisor check`: what this host offers, what is missing and why, and what `--accel auto` uses.

use std::io::{self, Write};
use std::process::Command;

use rustix::system::uname;

use crate::error::Error;
use crate::qemu;
use crate::qemu::QemuError;

/// Prints the report. Returns the exit status: 0 if at least one accelerator can run guests here,
/// else 3.
pub fn check() -> Result<u8, Error> {
    let kvm = crate::kvm::usable();
    let qemu = find_qemu();
    let mut report = Report::default();
    report.add("host", host());
    match &kvm {
        Ok(()) => report.add("kvm", "usable".into()),
        Err(why) => report.add("kvm", format!("no: {}", why.chain())),
    }
    if kvm.is_ok() {
        for (name, text) in crate::kvm::report() {
            report.add(name, text);
        }
    }
    match &qemu {
        Ok(found) => report.add("qemu", found.clone()),
        Err(why) => report.add("qemu", format!("no: {}", why.chain())),
    }
    let (auto, status) = match (&kvm, &qemu) {
        (Ok(()), _) => ("KVM", 0),
        (Err(_), Ok(_)) => ("QEMU", 0),
        (Err(_), Err(_)) => ("nothing: guests cannot run here", 3),
    };
    report.add("--accel auto", format!("takes {auto}"));
    io::stdout()
        .write_all(report.text().as_bytes())
        .map_err(Error::host("write to stdout"))?;
    Ok(status)
}

/// Names and texts, printed in two columns.
#[derive(Default)]
struct Report(Vec<(&'static str, String)>);

impl Report {
    fn add(&mut self, name: &'static str, text: String) {
        self.0.push((name, text));
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0
            .iter()
            .map(|(name, text)| format!("{name:width$}  {text}\n"))
            .collect()
    }
}

fn host() -> String {
    let arch = std::env::consts::ARCH;
    format!("{arch}, Linux {}", uname().release().to_string_lossy())
}

/// Returns the version of a usable QEMU, or why there is none.
fn find_qemu() -> Result<String, Error> {
    let program = qemu::program();
    let name = program.to_string_lossy().into_owned();
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|source| qemu::not_started(&program, source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = output.status.success().then(|| version(&text)).flatten();
    let Some((number, text)) = version else {
        return Err(Error::from(QemuError::Failed {
            program: name,
            status: format!("{}, no version", output.status),
        }));
    };
    if number < qemu::OLDEST {
        return Err(Error::from(QemuError::Old {
            program: name,
            found: text.into(),
            needed: qemu::OLDEST_TEXT,
        }));
    }
    Ok(format!("{text} ({name}), with its own CPU emulation (TCG)"))
}

/// Parses the major and minor number, and the whole version, of "QEMU emulator version 10.0.2
/// (Debian …)".
fn version(text: &str) -> Option<((u64, u64), &str)> {
    let version = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(((major, minor), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_and_compared() {
        let line = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)\nCopyright";
        assert_eq!(version(line), Some(((10, 0), "10.0.2")));
        assert_eq!(
            version("QEMU emulator version 7.2.19 (x)").map(|(number, _)| number < qemu::OLDEST),
            Some(true)
        );
        assert_eq!(version("GNU true 9"), None);
    }
}
