//! Uses the disks of the machine that runs the tests. Loop devices and mounts are tested in the lab
//! (tests/disks.rs).

use std::fs::File;

use super::*;

const MOUNTINFO: &str =
    "36 35 8:3 / /mnt rw,noatime shared:1 master:2 - ext3 /dev/no-such-device ro,errors=continue";

#[test]
fn a_mount_is_known_by_its_device_and_may_write_by_its_file_system() {
    let disk = Identity::Device(makedev(8, 3));
    let user = mount(MOUNTINFO, |mounted| mounted == disk).unwrap();
    assert_eq!(user.what, "/dev/no-such-device is mounted at /mnt");
    // The superblock counts: a read-only bind mount does not prevent writable mounts of it.
    assert!(!user.writes);
    let writable = MOUNTINFO.replace("ro,errors", "rw,errors");
    assert!(mount(&writable, |mounted| mounted == disk).unwrap().writes);

    let other = Identity::Device(makedev(8, 4));
    assert!(mount(MOUNTINFO, |mounted| mounted == other).is_none());
    for cut in 0..MOUNTINFO.len() {
        // A truncated line must not cause a failure.
        mount(&MOUNTINFO[..cut], |mounted| mounted == disk);
    }
}

#[test]
fn a_file_has_one_identity_and_no_relatives() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    for name in ["one", "two"] {
        File::create(path(name)).unwrap();
    }
    fs::hard_link(path("one"), path("link")).unwrap();
    let [one, two, link] = ["one", "two", "link"].map(|name| Identity::at(path(name)).unwrap());
    assert!(one.overlaps(link) && !one.overlaps(two));
    assert!(of(one).is_empty(), "{:?}", of(one));
    assert!(backing_files(one).is_empty());
    assert!(
        claim(&File::open(path("one")).unwrap(), false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_partition_overlaps_its_disk_and_not_its_sibling() {
    let partitions = numbers(Path::new("/sys/class/block"));
    let partitions: Vec<_> = partitions.filter(|it| whole_of(*it).is_some()).collect();
    if partitions.is_empty() {
        return eprintln!("skipped: this machine has no partition");
    }
    for partition in &partitions {
        let whole = Identity::Device(whole_of(*partition).unwrap());
        let this = Identity::Device(*partition);
        assert!(this.overlaps(whole) && whole.overlaps(this));
        for other in partitions.iter().filter(|other| *other != partition) {
            assert!(!this.overlaps(Identity::Device(*other)));
        }
    }
}

#[test]
fn a_process_is_found_by_the_file_it_has_open() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let identity = Identity::at(file.path()).unwrap();
    assert_eq!(process(identity), None, "no other process has it open");
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .stdin(File::open(file.path()).unwrap())
        .spawn()
        .unwrap();
    let found = process(identity);
    child.kill().unwrap();
    child.wait().unwrap();
    let found = found.unwrap();
    assert!(
        found.ends_with(&format!("(process {})", child.id())),
        "{found}"
    );
}
