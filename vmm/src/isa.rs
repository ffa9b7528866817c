//! The ISA and SBI extensions that KVM identifies by number, and the user's switches for them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Names of KVM's ISA extensions, indexed by KVM's number (enum KVM_RISCV_ISA_EXT_ID). Extensions
/// that newer kernels add are not listed, and so invisible to the guest.
pub const ISA_EXTENSIONS: [&str; 71] = [
    "a",
    "c",
    "d",
    "f",
    "h",
    "i",
    "m",
    "svpbmt",
    "sstc",
    "svinval",
    "zihintpause",
    "zicbom",
    "zicboz",
    "zbb",
    "ssaia",
    "v",
    "svnapot",
    "zba",
    "zbs",
    "zicntr",
    "zicsr",
    "zifencei",
    "zihpm",
    "smstateen",
    "zicond",
    "zbc",
    "zbkb",
    "zbkc",
    "zbkx",
    "zknd",
    "zkne",
    "zknh",
    "zkr",
    "zksed",
    "zksh",
    "zkt",
    "zvbb",
    "zvbc",
    "zvkb",
    "zvkg",
    "zvkned",
    "zvknha",
    "zvknhb",
    "zvksed",
    "zvksh",
    "zvkt",
    "zfh",
    "zfhmin",
    "zihintntl",
    "zvfh",
    "zvfhmin",
    "zfa",
    "ztso",
    "zacas",
    "sscofpmf",
    "zimop",
    "zca",
    "zcb",
    "zcd",
    "zcf",
    "zcmop",
    "zawrs",
    "smnpm",
    "ssnpm",
    "svade",
    "svadu",
    "svvptc",
    "zabha",
    "ziccrse",
    "zaamo",
    "zalrsc",
];

/// Names of KVM's SBI extensions, indexed by KVM's number (enum KVM_RISCV_SBI_EXT_ID).
pub const SBI_EXTENSIONS: [&str; 12] = [
    "legacy",
    "time",
    "ipi",
    "rfence",
    "srst",
    "hsm",
    "pmu",
    "experimental",
    "vendor",
    "dbcn",
    "sta",
    "susp",
];

/// One `EXT=on|off` of `--cpu` or `--sbi`. Serialized as this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Switch {
    /// KVM's number of the extension.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Whether the guest gets it.
    pub on: bool,
}

impl Switch {
    /// Parses `EXT=on` or `EXT=off`. EXT is one of `names`, in any case.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(text: &str, names: &'static [&'static str]) -> Result<Switch, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let on = match value {
            "on" => true,
            "off" => false,
            _ => {
                return Err(
                    "expected EXTENSION=on or EXTENSION=off, as in zbb=off or pmu=off".to_owned(),
                );
            }
        };
        let known = names
            .iter()
            .zip(0..)
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (&name, number) = known
            .ok_or_else(|| format!("unknown extension {name:?}, known are {}", names.join(" ")))?;
        Ok(Switch { number, name, on })
    }
}

impl From<Switch> for String {
    fn from(switch: Switch) -> String {
        let value = if switch.on { "on" } else { "off" };
        format!("{}={value}", switch.name)
    }
}

/// Deserializes a list of ISA extensions.
///
/// # Errors
/// An element is not `EXT=on` or `EXT=off`.
pub fn isa_switches<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Switch>, D::Error> {
    switches(list, &ISA_EXTENSIONS)
}

/// Deserializes a list of SBI extensions.
///
/// # Errors
/// An element is not `EXT=on` or `EXT=off`.
pub fn sbi_switches<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Switch>, D::Error> {
    switches(list, &SBI_EXTENSIONS)
}

fn switches<'de, D: Deserializer<'de>>(
    list: D,
    names: &'static [&'static str],
) -> Result<Vec<Switch>, D::Error> {
    let texts = Vec::<String>::deserialize(list)?;
    let switches = texts.iter().map(|text| Switch::parse(text, names));
    switches.collect::<Result<_, _>>().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_known_by_its_name_in_any_case() {
        let switch = Switch::parse("Zbb=off", &ISA_EXTENSIONS).unwrap();
        assert_eq!(switch, Switch { number: 13, name: "zbb", on: false });
        assert!(Switch::parse("dbcn=on", &SBI_EXTENSIONS).unwrap().on);
    }

    #[test]
    fn what_is_no_switch_is_refused_with_what_would_be() {
        for text in ["zbb", "zbb=", "zbb=yes", ""] {
            let error = Switch::parse(text, &ISA_EXTENSIONS).unwrap_err();
            assert!(error.contains("=off"), "{text}: {error}");
        }
        let error = Switch::parse("zzz=off", &ISA_EXTENSIONS).unwrap_err();
        assert!(
            error.contains("\"zzz\"") && error.contains("zbb"),
            "{error}"
        );
    }
}
