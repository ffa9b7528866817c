//! Options with a fixed set of values, and their help texts.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::config::{Accel, Devices, Irqchip};

/// Defines the names and help texts of an enum's values, in order.
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
    Auto = "auto", "KVM if it is usable and runs RISC-V guests, else QEMU";
    Kvm = "kvm", "KVM, or fail";
    Qemu = "qemu", "QEMU with CPU emulation (TCG)";
}

choices! { Devices:
    Ours = "ours", "Hartvisor, as under KVM (served to QEMU by vhost-user)";
    Qemu = "qemu", "QEMU, for comparison";
}

choices! { Irqchip:
    Auto = "auto", "The in-kernel AIA if it works, else a PLIC";
    Aia = "aia", "The in-kernel AIA (APLIC and IMSIC), or fail";
    Plic = "plic", "A PLIC in user space, which works on every host";
}
