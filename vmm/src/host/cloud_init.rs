//! The disk for cloud-init's data source NoCloud: a FAT volume labelled CIDATA with the files
//! `user-data` and `meta-data`, in memory. Its bytes depend only on the given files.
//!
//! <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use log::warn;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use twox_hash::XxHash64;

use crate::config::CloudInit;
use crate::error::Error;
use crate::host::disk::Disk;
use crate::host::files::{self, FileError};
use crate::layout::MIB;
use crate::size;

/// The size of the volume in bytes. Only what is written takes memory.
const VOLUME: u64 = 4 * MIB;

/// Padded with spaces, as FAT stores it. cloud-init accepts it in either case.
const LABEL: &[u8; 11] = b"CIDATA     ";

/// The beginnings of user data that cloud-init recognises. It ignores everything else.
const BEGINNINGS: [&[u8]; 9] = [
    b"#cloud-",
    b"#!",
    b"#include",
    b"#part-handler",
    b"## template: jinja",
    b"Content-Type:",
    b"MIME-Version:",
    b"From ",
    // gzip
    b"\x1f\x8b",
];

/// The content of the volume.
struct Seed {
    user_data: Vec<u8>,
    meta_data: Vec<u8>,
}

/// Creates the disk.
///
/// # Errors
/// A file cannot be read, is not what its key says, or the host has no memory or file descriptor
/// left.
pub(crate) fn disk(files: &CloudInit) -> Result<Disk, Error> {
    let seed = Seed::read(files)?;
    let file = volume(&seed).map_err(Error::host("create the disk for cloud-init"))?;
    Ok(Disk::private(file, VOLUME))
}

impl Seed {
    fn read(files: &CloudInit) -> Result<Seed, Error> {
        let content = |key, path: &Option<_>| path.as_deref().map(|path| read(key, path));
        let user_data = content("user-data", &files.user_data).transpose()?;
        let meta_data = content("meta-data", &files.meta_data).transpose()?;
        let keys = match &files.ssh_key {
            Some(path) => public_keys(path)?,
            None => String::new(),
        };
        if let (Some(path), Some(bytes)) = (&files.user_data, &user_data)
            && !BEGINNINGS.iter().any(|known| bytes.starts_with(known))
        {
            warn!(
                "user-data {path:?}: cloud-init ignores data that do not begin with #cloud-config, #! or the first line of another of its formats"
            );
        }
        // If the user gives user data, the keys go into the meta data.
        let keys_apart = user_data.is_some();
        let user_data = user_data
            .unwrap_or_else(|| format!("#cloud-config\nssh_authorized_keys:\n{keys}").into());
        let meta_data = meta_data.unwrap_or_else(|| {
            // cloud-init configures an instance once. Different contents must be another instance.
            let hash = XxHash64::oneshot(XxHash64::oneshot(0, keys.as_bytes()), &user_data);
            let mut text =
                format!("instance-id: hartvisor-{hash:016x}\nlocal-hostname: hartvisor\n");
            if keys_apart && !keys.is_empty() {
                text += "public-keys:\n";
                text += &keys;
            }
            text.into()
        });
        Ok(Seed { user_data, meta_data })
    }
}

/// Reads a file of at most 1 MiB.
fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let (file, length) = files::open_input(key, path)?;
    if length > MIB {
        let problem = format!(
            "it has {length} bytes, at most {} are possible",
            size::show(MIB)
        );
        return Err(FileError::content(key, path, problem));
    }
    let mut bytes = Vec::new();
    file.take(MIB)
        .read_to_end(&mut bytes)
        .map_err(FileError::read(key, path))?;
    Ok(bytes)
}

/// Reads public SSH keys, in the format of authorized_keys, and returns them as the items of a YAML
/// list.
fn public_keys(path: &Path) -> Result<String, Error> {
    let wrong = |problem| FileError::content("ssh-key", path, problem);
    let expected = "expected public keys such as ssh-ed25519 …, one per line";
    let bytes = read("ssh-key", path)?;
    let text = str::from_utf8(&bytes).map_err(|_| wrong(format!("it is not text, {expected}")))?;
    let mut items = String::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with("-----BEGIN") {
            let problem =
                "it is a private key or a certificate, expected the public key (FILE.pub)";
            return Err(wrong(problem.into()));
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // A type and the key in base64, with options before and a comment after.
        let is_key = |word: &str| word.starts_with("AAAA");
        if line.contains(char::is_control) || !line.split(' ').any(is_key) {
            return Err(wrong(format!(
                "line {number} is not a public key, {expected}"
            )));
        }
        // YAML accepts JSON's quoted strings.
        let _ = writeln!(items, "- {}", serde_json::Value::from(line));
    }
    match items.is_empty() {
        true => Err(wrong(format!("it has no key, {expected}"))),
        false => Ok(items),
    }
}

/// Writes the volume to an anonymous file, which then cannot be changed any more.
fn volume(seed: &Seed) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("cloud-init", flags)?);
    file.set_len(VOLUME)?;
    format_volume(&mut file, FormatVolumeOptions::new().volume_label(*LABEL))?;
    let volume = FileSystem::new(&mut file, FsOptions::new())?;
    for (name, content) in [
        ("user-data", &seed.user_data),
        ("meta-data", &seed.meta_data),
    ] {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(content)?;
        file.flush()?;
    }
    volume.unmount()?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, all)?;
    Ok(file)
}

#[cfg(test)]
#[path = "cloud_init_test.rs"]
mod tests;
