//! The ways to run a guest on this machine, each as a plan, or the reason why it is impossible.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vmm::config::Disk;

use crate::cli::{Compare, Peer, text};
use crate::clock::Clock;
use crate::error::Error;
use crate::plan::{Counting, Plan};
use crate::template;

/// One way.
pub struct Way {
    /// Its name in the table.
    pub name: String,
    /// Its group.
    pub clock: Clock,
    /// Whether hartvisor runs it: exit status 1 means that the guest failed, 3 that this host
    /// cannot run it.
    pub ours: bool,
    /// How to start it, or why that is impossible.
    pub plan: Result<Plan, String>,
}

/// The directory for the comparison's files, and hartvisor's own program.
pub struct Place<'a> {
    /// On this machine.
    pub directory: &'a Path,
    /// The program.
    pub hartvisor: &'a Path,
}

/// The directory in the emulated host: in its RAM, since shared directories have other costs.
const LAB_DIRECTORY: &str = "/tmp/hartvisor-compare";

/// All ways.
///
/// # Errors
/// A peer's command or a disk is invalid.
pub fn all(compare: &Compare, place: &Place<'_>) -> Result<Vec<Way>, Error> {
    let lab = &compare.options.lab;
    let lab_directory = Path::new(LAB_DIRECTORY);
    let hartvisor = text(place.hartvisor.as_os_str())?;
    let run = |program: &str, directory: &Path, accel: &[&str]| {
        let guest = Guest::new(compare, directory)?;
        let words = [program, "run"].into_iter().chain(accel.iter().copied());
        let mut command: Vec<String> = words.map(String::from).collect();
        command.extend(compare.handed_on.iter().cloned());
        command.extend(guest.disks.iter().map(|disk| format!("--disk={disk}")));
        let stats = directory.join("stats.json");
        let counting = Some(Counting {
            arguments: vec!["--stats".into(), text(stats.as_os_str())?],
            file: stats,
        });
        guest.plan(compare, command, counting)
    };
    let usable = vmm::kvm::usable().map_err(|why| why.chain());
    let mut ways = Vec::new();
    let mut way = |name: &str, clock, plan| {
        ways.push(Way { name: name.into(), clock, ours: true, plan });
    };
    let here = usable.is_ok();
    let plan = usable.map(|()| run(&hartvisor, place.directory, &["--accel=kvm"]));
    way("hartvisor", Clock::Kvm, turned(plan)?);
    if lab.is_some() || !here {
        let plan = match lab {
            Some(_) => Ok(run("hartvisor", lab_directory, &["--accel=kvm"])),
            None => Err("no emulated host: give its command with --lab or HARTVISOR_LAB".into()),
        };
        way("hartvisor", Clock::Lab, turned(plan)?);
    }
    let ours = ["--accel=qemu", "--devices=ours"];
    let plan = run(&hartvisor, place.directory, &ours)?;
    way("our devices", Clock::Tcg, Ok(plan));
    let theirs = ["--accel=qemu", "--devices=qemu"];
    let plan = run(&hartvisor, place.directory, &theirs)?;
    way("QEMU's devices", Clock::Tcg, Ok(plan));
    for peer in &compare.options.peers {
        let directory = match peer.clock {
            Clock::Lab => lab_directory,
            _ => place.directory,
        };
        let plan = peer_plan(compare, peer, directory)?;
        ways.push(Way {
            name: peer.name.clone(),
            clock: peer.clock,
            ours: false,
            plan: match (peer.clock, lab) {
                (Clock::Lab, None) => Err("no emulated host: it needs --lab".into()),
                _ => Ok(plan),
            },
        });
    }
    // Stable: within a group the order stays.
    ways.sort_by_key(|way| way.clock);
    Ok(ways)
}

/// A user's error ends the comparison; an impossible way does not.
fn turned(plan: Result<Result<Plan, Error>, String>) -> Result<Result<Plan, String>, Error> {
    match plan {
        Ok(plan) => plan.map(Ok),
        Err(why) => Ok(Err(why)),
    }
}

fn peer_plan(compare: &Compare, peer: &Peer, directory: &Path) -> Result<Plan, Error> {
    let guest = Guest::new(compare, directory)?;
    let run = &compare.guest;
    let mut values = BTreeMap::from([
        ("kernel", text(compare.kernel().as_os_str())?),
        ("cmdline", run.cmdline.clone()),
        ("memory", (run.memory.size >> 20).to_string()),
        ("cpus", run.cpus.to_string()),
    ]);
    if let Some(initrd) = &run.initrd {
        values.insert("initrd", text(initrd.as_os_str())?);
    }
    if let Some(disk) = &guest.first {
        values.insert("disk", text(disk.as_os_str())?);
    }
    let command = template::command(&peer.command, &values)
        .map_err(|problem| Error::Peer { name: peer.name.clone(), problem })?;
    guest.plan(compare, command, None)
}

/// The guest's disks for runs whose files are in one directory.
struct Guest {
    /// Values of `--disk`.
    disks: Vec<String>,
    /// The first of them.
    first: Option<PathBuf>,
    /// Source and target of each copy: a run must not see what another wrote.
    copies: Vec<(PathBuf, PathBuf)>,
}

impl Guest {
    fn new(compare: &Compare, directory: &Path) -> Result<Guest, Error> {
        let mut guest = Guest { disks: Vec::new(), first: None, copies: Vec::new() };
        let options = compare.guest.disks.iter().zip(&compare.disks).enumerate();
        for (index, (option, value)) in options {
            let (path, value) = if option.readonly {
                (option.path.clone(), value.clone())
            } else {
                let copy = directory.join(format!("disk{index}"));
                check_copied(option)?;
                guest.copies.push((absolute(&option.path)?, copy.clone()));
                let value = moved(value, &text(copy.as_os_str())?);
                (copy, value)
            };
            guest.first.get_or_insert(path);
            guest.disks.push(value);
        }
        Ok(guest)
    }

    fn plan(
        self,
        compare: &Compare,
        command: Vec<String>,
        counting: Option<Counting>,
    ) -> Result<Plan, Error> {
        let options = &compare.options;
        let input = options.input.as_deref().map(absolute).transpose()?;
        Ok(Plan {
            command,
            counting,
            runs: options.runs,
            timeout: options.timeout,
            input,
            copies: self.copies,
            ram: compare.guest.memory.size,
        })
    }
}

/// A disk option with another file and the same keys.
fn moved(value: &str, path: &str) -> String {
    let mut rest = value;
    let keys = loop {
        // A doubled comma belongs to the name.
        match rest.find(',').map(|at| rest.split_at(at).1) {
            None => break "",
            Some(comma) => match comma.strip_prefix(",,") {
                Some(after) => rest = after,
                None => break comma,
            },
        }
    };
    format!("{}{keys}", path.replace(',', ",,"))
}

fn check_copied(disk: &Disk) -> Result<(), Error> {
    match fs::metadata(&disk.path) {
        Ok(about) if about.is_file() => Ok(()),
        Ok(_) => Err(Error::Usage(format!(
            "disk {0:?} is not a regular file, and each run needs its own copy: give a file, or {0:?},readonly",
            disk.path
        ))),
        Err(source) => Err(Error::File { what: "read", path: disk.path.clone(), source }),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|source| Error::File { what: "read", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_disk_keeps_its_keys() {
        assert_eq!(moved("a.img", "/t/0"), "/t/0");
        assert_eq!(
            moved("a,,b.img,serial=x,queues=2", "/t,0"),
            "/t,,0,serial=x,queues=2"
        );
        assert_eq!(moved("a,,", "b"), "b");
    }
}
