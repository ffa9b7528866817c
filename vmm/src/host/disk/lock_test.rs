//! Two open files of one image, as in two machines.

use std::fs::File;
use std::path::Path;

use super::{release, take};

fn machine(path: &Path, readonly: bool) -> (File, bool) {
    let file = File::options().read(true).write(!readonly).open(path);
    let file = file.unwrap();
    let taken = take(&file, readonly).unwrap();
    (file, taken)
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let path = image.path();
    for (first, second, both) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, true, true),
    ] {
        let (one, taken) = machine(path, first);
        assert!(taken, "no other process has it locked");
        let (_other, taken) = machine(path, second);
        assert_eq!(taken, both, "readonly: {first} then {second}");
        drop(one);
    }
}

#[test]
fn a_lock_ends_with_the_last_descriptor_of_its_file() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let (one, taken) = machine(image.path(), false);
    assert!(taken);
    let copy = one.try_clone().unwrap();
    drop(one);
    assert!(!machine(image.path(), false).1);
    drop(copy);
    assert!(machine(image.path(), false).1);
}

#[test]
fn a_lock_that_was_given_up_is_there_for_another() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let (one, _) = machine(image.path(), false);
    release(&one).unwrap();
    assert!(machine(image.path(), false).1);
}
