//! `hartvisor run`: check the machine, then choose what runs it.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::cli::{Accel, Run};
use crate::error::Error;
use crate::loader::Format;
use crate::machine::{End, Machine};
use crate::pidfile::PidFile;
use crate::{qemu, signals};

/// Runs the guest that `options` describe, to its end.
pub fn run(options: &Run) -> Result<End, Error> {
    let machine = Machine::new(options)?;
    if options.print_command {
        return print_command(&machine, options.accel);
    }
    let _pidfile = if machine.dump_dtb.is_some() {
        None
    } else {
        // Who reads the process id may use it at once: a signal must end the run in order from here on.
        signals::block()?;
        options
            .pidfile
            .as_deref()
            .map(PidFile::create)
            .transpose()?
    };
    match options.accel {
        Accel::Kvm => crate::kvm::run(&machine),
        Accel::Qemu => qemu::run(&machine, None),
        Accel::Auto => match crate::kvm::usable() {
            Ok(()) => crate::kvm::run(&machine),
            Err(why) => {
                qemu::run(&machine, Some(&why.chain())).map_err(|error| neither(&why, error))
            }
        },
    }
}

/// Without QEMU, why there is no KVM either belongs to the error.
fn neither(kvm: &Error, qemu: Error) -> Error {
    match qemu {
        Error::NoQemu { .. } => Error::Neither {
            kvm: kvm.chain(),
            qemu: Box::new(qemu),
        },
        other => other,
    }
}

/// Shows how QEMU would be started; the QMP connection, by which the guest's end is learnt, is left out.
fn print_command(machine: &Machine, accel: Accel) -> Result<End, Error> {
    if accel == Accel::Kvm {
        let problem = "--print-command shows the QEMU command line, there is none with --accel kvm";
        return Err(Error::Usage(problem.into()));
    }
    let kernel = &machine.kernel;
    let made = match (kernel.format(), kernel.packing()) {
        (Format::StaticPie, _) => {
            Some("position-independent: run hands QEMU a copy with addresses")
        }
        (Format::Raw, _) => Some("a raw binary: run hands QEMU an ELF made of it"),
        (_, Some(_)) => Some("compressed: run hands QEMU what is in it"),
        (_, None) => None,
    };
    if let Some(made) = made {
        log::warn!("the kernel is {made}, the file itself will not start");
    }
    let arguments = qemu::arguments(machine, machine.kernel.path());
    let line = qemu::shell_line(&qemu::program(), &arguments);
    let mut text = line.as_bytes().to_vec();
    text.push(b'\n');
    io::stdout()
        .write_all(&text)
        .map_err(|source| Error::Host {
            what: "write to stdout".into(),
            source,
        })?;
    Ok(End::PowerOff)
}
