//! `hartvisor check`: what this host offers, what is missing and why, and what `--accel auto` uses.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use rustix::system::uname;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::host::{firmware, net, share};
use crate::qemu;
use crate::qemu::QemuError;

/// Prints the report, as text or as JSON. Returns the exit status: 0 if at least one accelerator
/// can run guests here, else 3.
///
/// # Errors
/// Stdout does not accept it.
pub fn check(json: bool) -> Result<u8, Error> {
    let report = Report::new();
    let text = match json {
        true => format!("{:#}\n", report.json()),
        false => report.text(),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::host("write to stdout"))?;
    Ok(report.auto().map_or(3, |_| 0))
}

/// What this host offers.
struct Report {
    host: String,
    /// Facts about a usable KVM, or why it cannot be used.
    kvm: Result<Vec<(&'static str, String)>, String>,
    /// The version of a usable QEMU, or why there is none.
    qemu: Result<String, String>,
    /// The firmware that boots disks without a kernel, or why there is none.
    firmware: Result<PathBuf, String>,
    /// The ways to a network, or why there are none.
    network: Vec<(&'static str, Result<String, String>)>,
    /// The version of virtiofsd, or why there is none.
    virtiofsd: Result<String, String>,
}

impl Report {
    fn new() -> Report {
        let kvm = crate::kvm::usable();
        Report {
            host: host(),
            kvm: kvm
                .map(|()| crate::kvm::report())
                .map_err(|why| why.chain()),
            qemu: find_qemu().map_err(|why| why.chain()),
            firmware: firmware::find().map_err(|why| why.chain()),
            network: net::ways()
                .map(|(name, way)| (name, way.map_err(|why| why.chain())))
                .into(),
            virtiofsd: share::version().map_err(|why| why.chain()),
        }
    }

    /// The accelerator that `--accel auto` uses.
    fn auto(&self) -> Option<&'static str> {
        match (&self.kvm, &self.qemu) {
            (Ok(_), _) => Some("kvm"),
            (Err(_), Ok(_)) => Some("qemu"),
            (Err(_), Err(_)) => None,
        }
    }

    /// Names and texts, in two columns.
    fn text(&self) -> String {
        let mut lines = vec![("host", self.host.clone())];
        match &self.kvm {
            Ok(facts) => {
                lines.push(("kvm", "usable".into()));
                lines.extend(facts.iter().cloned());
            }
            Err(why) => lines.push(("kvm", format!("no: {why}"))),
        }
        lines.push(match &self.qemu {
            Ok(version) => (
                "qemu",
                format!(
                    "{version} ({}), with its own CPU emulation (TCG)",
                    qemu::program().display()
                ),
            ),
            Err(why) => ("qemu", format!("no: {why}")),
        });
        lines.push(match &self.firmware {
            Ok(path) => ("firmware", path.display().to_string()),
            Err(why) => ("firmware", why.clone()),
        });
        let share = ("virtiofsd", self.virtiofsd.clone());
        for (name, way) in self.network.iter().chain([&share]) {
            let text = way.clone().unwrap_or_else(|why| format!("no: {why}"));
            lines.push((name, text));
        }
        let auto = match self.auto() {
            Some("kvm") => "KVM",
            Some(_) => "QEMU",
            None => "none: guests cannot run here",
        };
        lines.push(("--accel auto", auto.into()));
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = lines.into_iter();
        lines
            .map(|(name, text)| format!("{name:width$}  {text}\n"))
            .collect()
    }

    fn json(&self) -> Value {
        let kvm = match &self.kvm {
            Ok(facts) => {
                let facts = facts
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), json!(text)));
                json!({ "usable": true, "facts": Map::from_iter(facts) })
            }
            Err(why) => json!({ "usable": false, "why": why }),
        };
        let qemu = match &self.qemu {
            Ok(version) => json!({ "usable": true, "version": version }),
            Err(why) => json!({ "usable": false, "why": why }),
        };
        let firmware = self.firmware.as_ref().ok();
        let usable = |way: &Result<String, String>| match way {
            Ok(what) => json!({ "usable": true, "what": what }),
            Err(why) => json!({ "usable": false, "why": why }),
        };
        let network = self.network.iter();
        let network = network.map(|(name, way)| ((*name).to_owned(), usable(way)));
        let network = Map::from_iter(network);
        json!({
            "host": self.host, "kvm": kvm, "qemu": qemu, "firmware": firmware, "network": network,
            "virtiofsd": usable(&self.virtiofsd), "auto": self.auto(),
        })
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
        return Err(Error::from(QemuError::NotQemu {
            program: name,
            status: output.status,
        }));
    };
    if number < qemu::OLDEST {
        return Err(Error::from(QemuError::Old {
            program: name,
            found: text.into(),
            needed: qemu::OLDEST_TEXT,
        }));
    }
    Ok(text.to_owned())
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
    fn the_text_and_the_json_say_the_same() {
        let why = "no /dev/kvm".to_owned();
        let report = Report {
            host: "x86_64".into(),
            kvm: Err(why.clone()),
            qemu: Ok("10.0.2".into()),
            firmware: Ok("/usr/u-boot.bin".into()),
            network: vec![("tap", Ok("here".into())), ("passt", Err("missing".into()))],
            virtiofsd: Ok("virtiofsd 1".into()),
        };
        assert!(report.text().contains(
            "tap           here\npasst         no: missing\nvirtiofsd     virtiofsd 1\n"
        ));
        assert_eq!(report.json()["network"]["tap"]["what"], "here");
        assert_eq!(report.json()["network"]["passt"]["why"], "missing");
        assert!(report.text().contains("firmware      /usr/u-boot.bin\n"));
        assert_eq!(report.json()["firmware"], "/usr/u-boot.bin");
        assert!(report.text().contains("kvm           no: no /dev/kvm\n"));
        assert!(report.text().ends_with("--accel auto  QEMU\n"));
        let json = report.json();
        assert_eq!(json["kvm"], json!({ "usable": false, "why": why }));
        assert_eq!(json["qemu"]["version"], "10.0.2");
        assert_eq!(json["auto"], "qemu");
        let facts = vec![("paging", "sv57".to_owned())];
        let report = Report { kvm: Ok(facts), qemu: Err("none".into()), ..report };
        assert!(report.text().contains("\npaging        sv57\n"));
        assert_eq!(report.json()["kvm"]["facts"]["paging"], "sv57");
        assert_eq!(report.json()["auto"], "kvm");
        let report = Report { kvm: Err("none".into()), ..report };
        assert!(report.json()["auto"].is_null());
    }

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
