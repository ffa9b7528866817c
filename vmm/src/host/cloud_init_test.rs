//! The volume, read back. vmm/tests/cloud_init.rs has U-Boot and Linux read one.

use std::fs;

use super::*;
use crate::error::Class;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@\"host\"";
/// The most bytes of a file.
const LIMIT: usize = 1 << 20;

/// A directory with these files, and the value of the option that names those of its keys.
fn files(contents: &[(&'static str, &[u8])]) -> (tempfile::TempDir, CloudInit) {
    let folder = tempfile::tempdir().unwrap();
    let mut files = CloudInit::default();
    for (key, content) in contents {
        let path = folder.path().join(key);
        fs::write(&path, content).unwrap();
        *match *key {
            "user-data" => &mut files.user_data,
            "meta-data" => &mut files.meta_data,
            _ => &mut files.ssh_key,
        } = Some(path);
    }
    (folder, files)
}

/// The files on the volume: user-data and meta-data.
fn made(contents: &[(&'static str, &[u8])]) -> [String; 2] {
    let (_folder, files) = files(contents);
    let mut bytes = Vec::new();
    let disk = disk(&files).unwrap();
    let mut file = File::open(&disk.config.path).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, VOLUME);
    let volume = FileSystem::new(io::Cursor::new(bytes), FsOptions::new()).unwrap();
    let label = volume.read_volume_label_from_root_dir().unwrap();
    assert_eq!(label.as_deref(), Some("CIDATA"));
    assert_eq!(volume.root_dir().iter().count(), 2);
    ["user-data", "meta-data"].map(|name| {
        let mut text = String::new();
        let mut file = volume.root_dir().open_file(name).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    })
}

fn refused(contents: &[(&'static str, &[u8])]) -> String {
    let (_folder, files) = files(contents);
    let error = disk(&files).unwrap_err();
    assert_eq!(error.exit_code(), Class::Usage as u8, "{error}");
    error.chain()
}

#[test]
fn the_given_files_are_on_the_volume_unchanged() {
    let large = "#cloud-config\n".to_owned() + &"# x\n".repeat((LIMIT - 14) / 4);
    let contents = [
        ("user-data", large.as_bytes()),
        ("meta-data", b"{\"instance-id\": 1}"),
    ];
    assert_eq!(
        made(&contents),
        [large.clone(), "{\"instance-id\": 1}".into()]
    );
}

#[test]
fn an_instance_keeps_its_id_until_a_content_changes() {
    let one = made(&[("user-data", b"#!/bin/sh\n")]);
    assert!(one[1].starts_with("instance-id: hartvisor-"), "{}", one[1]);
    assert!(
        one[1].ends_with("\nlocal-hostname: hartvisor\n"),
        "{}",
        one[1]
    );
    assert_eq!(made(&[("user-data", b"#!/bin/sh\n")]), one);
    assert_ne!(made(&[("user-data", b"#!/bin/sh \n")])[1], one[1]);
    let with_key = made(&[("user-data", b"#!/bin/sh\n"), ("ssh-key", KEY.as_bytes())]);
    assert_ne!(with_key[1].lines().next(), one[1].lines().next());
}

#[test]
fn a_key_alone_makes_the_user_data_and_beside_them_is_meta_data() {
    let quoted = r#"- "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@\"host\"""#;
    let text = format!("\n# mine\n{KEY}\r\n");
    let [user_data, meta_data] = made(&[("ssh-key", text.as_bytes())]);
    assert_eq!(
        user_data,
        format!("#cloud-config\nssh_authorized_keys:\n{quoted}\n")
    );
    assert!(!meta_data.contains("public-keys"));
    let [user_data, meta_data] = made(&[("user-data", b"#!x"), ("ssh-key", text.as_bytes())]);
    assert_eq!(user_data, "#!x");
    assert!(meta_data.ends_with(&format!("\npublic-keys:\n{quoted}\n")));
}

#[test]
fn what_is_no_public_key_is_refused_naming_file_and_line() {
    let cases: [(&[u8], &str); 5] = [
        (
            b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
            "expected the public key (FILE.pub)",
        ),
        (b"# none\n\n", "it has no key"),
        (b"#\npassword\n", "line 2 is not a public key"),
        (b"ssh-rsa AAAA\tx\n", "line 1 is not a public key"),
        (b"\xff", "it is not text"),
    ];
    for (content, part) in cases {
        let error = refused(&[("ssh-key", content)]);
        assert!(
            error.contains(part) && error.contains("/ssh-key\""),
            "{error}"
        );
    }
}

#[test]
fn files_that_are_empty_too_long_or_absent_are_refused() {
    assert!(refused(&[("user-data", b"")]).contains("user-data \"/"));
    let error = refused(&[("user-data", &vec![b'#'; LIMIT + 1])]);
    assert!(
        error.contains("it has 1048577 bytes, at most 1M"),
        "{error}"
    );
    let files = CloudInit { ssh_key: Some("/absent".into()), ..CloudInit::default() };
    assert!(
        disk(&files)
            .unwrap_err()
            .to_string()
            .contains("ssh-key \"/absent\"")
    );
}

#[test]
fn the_volume_cannot_be_changed() {
    let (_folder, files) = files(&[("user-data", b"#!")]);
    let disk = disk(&files).unwrap();
    assert!((&disk.file).write(b"x").is_err());
    assert!(disk.file.set_len(0).is_err());
}
