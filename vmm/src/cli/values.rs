//! The choices of options, with what `--help` says of each.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::config::{Accel, Devices, Irqchip};

/// The names and help texts of an enum's values, in their order.
macro_rules! choices {
    ($type:ty: $($value:ident = $name:literal, $help:literal;)*) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$value),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(Self::$value => PossibleValue::new($name).help($help)),*
                })
            }
        }
    };
}

choices! { Accel:
    Auto = "auto", "KVM where it is RISC-V and usable, else QEMU";
    Kvm = "kvm", "KVM, or an error";
    Qemu = "qemu", "QEMU with its own CPU emulation (TCG)";
}

choices! { Devices:
    Ours = "ours", "Hartvisor's, as under KVM: they are served to QEMU (vhost-user)";
    Qemu = "qemu", "QEMU's own, for comparison";
}

choices! { Irqchip:
    Auto = "auto", "The in-kernel AIA where KVM has one that works, else a PLIC";
    Aia = "aia", "The in-kernel AIA (APLIC and IMSIC), or an error";
    Plic = "plic", "A PLIC in user space, which every host can have";
}
