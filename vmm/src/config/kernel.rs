//! The kernel: `--kernel FILE[,format=FORMAT]`.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keys::split_at_single_commas;

/// The configuration of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kernel {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    #[serde(default)]
    pub format: KernelFormat,
}

/// The format of a kernel file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFormat {
    /// Detect it from the content.
    #[default]
    Auto,
    /// An ELF file, uncompressed or compressed; anything else is an error.
    Elf,
    /// A flat Image, uncompressed or compressed; anything else is an error.
    Image,
    /// A binary without a header, regardless of the content.
    Raw,
}

impl Kernel {
    /// Parses `FILE[,format=FORMAT]`. A doubled comma is a comma in FILE.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = split_at_single_commas(text).into_iter();
        let path = PathBuf::from(parts.next().unwrap_or_default());
        if path.as_os_str().is_empty() {
            return Err("the file name is missing, expected FILE[,format=FORMAT]".into());
        }
        let mut format = None;
        for part in parts {
            let part = part.to_string_lossy();
            let Some(name) = part.strip_prefix("format=") else {
                return Err(format!(
                    "unknown key {part:?}, known is format=auto|elf|image|raw (a comma in the file name is written twice)"
                ));
            };
            if format.replace(KernelFormat::parse(name)?).is_some() {
                return Err("format is given twice".into());
            }
        }
        Ok(Kernel { path, format: format.unwrap_or(KernelFormat::Auto) })
    }
}

impl KernelFormat {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(KernelFormat::Auto),
            "elf" => Ok(KernelFormat::Elf),
            "image" => Ok(KernelFormat::Image),
            "raw" => Ok(KernelFormat::Raw),
            "gzip" | "zstd" | "zboot" | "efi" => Err(format!(
                "format {name:?}: compression is detected from the content; expected auto, raw, or elf or image (once decompressed)"
            )),
            _ => Err(format!(
                "unknown format {name:?}, expected auto, elf, image or raw"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(PathBuf, KernelFormat), String> {
        Kernel::parse(OsStr::new(text)).map(|option| (option.path, option.format))
    }

    #[test]
    fn a_file_alone_is_recognised_by_its_content() {
        assert_eq!(parse("Image"), Ok(("Image".into(), KernelFormat::Auto)));
    }

    #[test]
    fn doubled_commas_belong_to_the_name() {
        assert_eq!(
            parse("a,,b,format=raw"),
            Ok(("a,b".into(), KernelFormat::Raw))
        );
    }

    #[test]
    fn each_format_has_its_name() {
        for (name, format) in [
            ("auto", KernelFormat::Auto),
            ("elf", KernelFormat::Elf),
            ("image", KernelFormat::Image),
            ("raw", KernelFormat::Raw),
        ] {
            assert_eq!(parse(&format!("k,format={name}")).unwrap().1, format);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_naming_what_can() {
        for (text, part) in [
            (
                "k,format=bzip2",
                "unknown format \"bzip2\", expected auto, elf, image or raw",
            ),
            ("k,format=", "unknown format \"\""),
            ("k,format=gzip", "detected from the content"),
            (
                "k,raw",
                "unknown key \"raw\", known is format=auto|elf|image|raw",
            ),
            ("k,", "unknown key \"\""),
            ("k,format=raw,format=raw", "format is given twice"),
            (",format=raw", "the file name is missing"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
