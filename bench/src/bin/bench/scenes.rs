//! The scenes of `bench scale`. All but one use the bare-metal guest, which does nothing, so the
//! VMM and KVM are measured.

use bench::plan::FOLDER;
use bench::scale::{Scene, Waits};

/// Maximum number of disks besides the console and the random number generator.
pub(crate) const DISKS: usize = 6;

/// Returns all scenes, curve by curve.
pub(crate) fn all() -> Vec<Scene> {
    let mut scenes = vec![
        Scene { rounds: 100, ..ending("100 starts, one after another", 1) },
        ending("20 starts at once", 20),
    ];
    scenes.extend(
        [1, 2, 5, 10, 20].map(|vms| Scene { vms, ..waiting(&plural(vms, "VM"), 256, 1, 0) }),
    );
    scenes.extend((1..=DISKS).map(|disks| waiting(&plural(disks as u64, "disk"), 256, 1, disks)));
    scenes.extend([1, 4, 64].map(|gib| waiting(&format!("{gib} GiB"), gib << 10, 1, 0)));
    scenes.extend([2, 4, 8].map(|cpus| waiting(&plural(cpus, "vCPU"), 256, cpus, 0)));
    scenes.push(linux());
    scenes
}

fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// The first scene, which is not measured.
pub(crate) fn warm_up() -> Scene {
    ending("warm-up", 1)
}

/// Returns the path of a scene's disk.
pub(crate) fn disk(number: usize) -> String {
    format!("{FOLDER}/disk{number}")
}

/// VMs whose guests power off at once.
fn ending(name: &str, vms: u64) -> Scene {
    let mut command = vmm(256, 1);
    command.extend(["--kernel".into(), format!("{FOLDER}/guest")]);
    command.extend(["--cmdline".into(), "poweroff".into()]);
    Scene { name: name.to_owned(), command, rounds: 1, vms, ram: 256 << 10, waits: None }
}

/// A VM whose guest waits for a key.
fn waiting(name: &str, mib: u64, cpus: u64, disks: usize) -> Scene {
    let mut command = vmm(mib, cpus);
    command.extend(["--kernel".into(), format!("{FOLDER}/guest")]);
    command.extend(["--cmdline".into(), "echo".into()]);
    command.extend((1..=disks).flat_map(|number| ["--disk".into(), disk(number)]));
    Scene {
        name: name.to_owned(),
        command,
        rounds: 1,
        vms: 1,
        ram: mib << 10,
        waits: Some(Waits { ready: "echo: ".to_owned(), go: "\u{4}".to_owned() }),
    }
}

/// Debian's kernel with `load`, which waits before its first test.
fn linux() -> Scene {
    use bench::protocol::{GO, Line, SEED, TESTS};
    let mut command = vmm(256, 1);
    command.extend(["--kernel".into(), format!("{FOLDER}/kernel")]);
    command.extend(["--initrd".into(), format!("{FOLDER}/initrd")]);
    command.extend(["--disk".into(), disk(1)]);
    let cmdline = format!("console=hvc0 panic=-1 {SEED}=1 {TESTS}=null:1");
    command.extend(["--cmdline".into(), cmdline]);
    Scene {
        name: "Linux".to_owned(),
        command,
        rounds: 1,
        vms: 1,
        ram: 256 << 10,
        waits: Some(Waits {
            ready: Line::Ready("null".to_owned()).to_string(),
            // Once before the test and once after it.
            go: GO.repeat(2),
        }),
    }
}

fn vmm(mib: u64, cpus: u64) -> Vec<String> {
    let program = format!("{FOLDER}/hartvisor/hartvisor");
    let mut command: Vec<String> = vec![program];
    command.extend(["run", "--accel", "kvm"].map(str::to_owned));
    command.extend(["--memory".into(), format!("{mib}M")]);
    command.extend(["--cpus".into(), cpus.to_string()]);
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scene_has_its_own_name() {
        let names: BTreeSet<String> = all().into_iter().map(|scene| scene.name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn a_vm_has_the_disks_that_its_scene_names() {
        let count = |scene: &Scene| scene.command.iter().filter(|it| *it == "--disk").count();
        for scene in all() {
            if let Some((number, "disk" | "disks")) = scene.name.split_once(' ') {
                assert_eq!(number.parse(), Ok(count(&scene)));
            }
        }
    }
}
