//! `hartvisor run`: checks the machine, then chooses the accelerator.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use log::info;

use crate::board::slots;
use crate::config::{self, Accel, Devices};
use crate::error::Error;
use crate::host::pidfile::PidFile;
use crate::host::share::Directory;
use crate::loader::Format;
use crate::machine::{End, Machine};
use crate::observe::{self, Moment, Observer, Unobserved};
use crate::qemu::QemuError;
use crate::{qemu, signals, story};

/// Runs the guest of `run` until it ends, and returns the exit status.
///
/// # Errors
/// The machine cannot be created, or a system call failed.
pub fn run(run: config::Run) -> Result<u8, Error> {
    let no_reboot = run.machine.no_reboot;
    to_its_end(run).map(|end| match (end, no_reboot) {
        (End::Reboot, Some(status)) => status,
        _ => end.exit_code(),
    })
}

fn to_its_end(run: config::Run) -> Result<End, Error> {
    if run.accel == Accel::Kvm && run.machine.devices == Devices::Qemu {
        let problem =
            "--devices qemu needs QEMU, which --accel kvm does not use: remove one of them";
        return Err(Error::Usage(problem.into()));
    }
    slots::check(&run.machine, slots::KVM)?;
    let machine = Machine::new(run.machine, run.dump_dtb)?;
    if run.print_command {
        return print_command(&machine, run.accel);
    }
    let _pidfile = if machine.dump_dtb.is_some() {
        None
    } else {
        // A signal may come as soon as the process ID can be read. From here on it must end the run
        // properly.
        signals::block(&[signals::SUSPEND])?;
        run.pidfile.as_deref().map(PidFile::create).transpose()?
    };
    if machine.dump_dtb.is_some() {
        return accelerate(&machine, run.accel, &Unobserved);
    }
    let observer = observe::start(&run.observe, &machine)?;
    story::log(&machine);
    let end = accelerate(&machine, run.accel, &*observer);
    if let Ok(end) = &end {
        info!("{end}");
    }
    observer.notify(Moment::Ended(&end));
    end
}

/// Runs the machine with the requested accelerator.
fn accelerate(machine: &Machine, accel: Accel, observer: &dyn Observer) -> Result<End, Error> {
    match accel {
        Accel::Kvm => {
            info!("accelerator: KVM (--accel kvm)");
            crate::control_loop::run(machine, observer)
        }
        Accel::Qemu => {
            info!("accelerator: QEMU (--accel qemu)");
            qemu::run(machine, observer, None)
        }
        Accel::Auto => match crate::kvm::usable() {
            Ok(()) if machine.config.devices == Devices::Qemu => Err(Error::Usage(
                "--devices qemu: --accel auto uses KVM here, where QEMU has no devices (add --accel qemu)"
                    .into(),
            )),
            Ok(()) => {
                info!("accelerator: KVM (it is usable)");
                if machine.dump_dtb.is_none() {
                    story::greet(&machine.config);
                }
                crate::control_loop::run(machine, observer)
            }
            Err(why) => {
                info!("accelerator: QEMU (KVM is not usable)");
                qemu::run(machine, observer, Some(&why.chain()))
                    .map_err(|error| neither(&why, error))
            }
        },
    }
}

/// If there is no QEMU either, the error includes why KVM cannot be used.
fn neither(kvm: &Error, qemu: Error) -> Error {
    match qemu {
        Error::Qemu(qemu @ QemuError::Missing { .. }) => Error::Neither { kvm: kvm.chain(), qemu },
        other => other,
    }
}

/// Prints the QEMU command, without the QMP connection that reports how the guest ended.
fn print_command(machine: &Machine, accel: Accel) -> Result<End, Error> {
    if accel == Accel::Kvm {
        let problem = "--print-command prints a QEMU command, which --accel kvm does not use: remove one of them";
        return Err(Error::Usage(problem.into()));
    }
    if machine.config.cloud_init.is_some() && machine.config.devices == Devices::Qemu {
        let problem = "--cloud-init makes its disk in memory, which --print-command cannot give to QEMU's own devices: leave out --devices qemu";
        return Err(Error::Usage(problem.into()));
    }
    qemu::check(machine)?;
    let kernel = &machine.kernel;
    let made = match (kernel.format(), kernel.compression()) {
        (Format::StaticPie, _) => {
            Some("position-independent: run gives QEMU a copy with addresses")
        }
        // QEMU loads a file of no known format to the same address.
        (Format::Raw, _) if machine.config.kernel.is_none() => None,
        (Format::Raw, _) => Some("a raw binary: run gives QEMU an ELF file made from it"),
        (_, Some(_)) => Some("compressed: run gives QEMU the decompressed kernel"),
        (_, None) => None,
    };
    if let Some(made) = made {
        log::warn!("the kernel is {made}; the file itself will not start");
    }
    let mut text = commands(machine).into_vec();
    text.push(b'\n');
    io::stdout()
        .write_all(&text)
        .map_err(Error::host("write to stdout"))?;
    Ok(End::PowerOff)
}

/// The commands that serve devices to QEMU, a wait for their sockets, and the QEMU command.
fn commands(machine: &Machine) -> OsString {
    let ours = match machine.config.devices {
        Devices::Ours => ours(machine),
        Devices::Qemu => Vec::new(),
    };
    let address = |(socket, _): &(String, _)| format!("path={socket}").into();
    let addresses: Vec<OsString> = ours.iter().map(address).collect();
    let devices = match machine.config.devices {
        Devices::Ours => qemu::Devices::Ours(&addresses),
        Devices::Qemu => qemu::Devices::Qemu,
    };
    let mut text = OsString::new();
    let shares = machine.directories.iter().map(Directory::command);
    let served: Vec<_> = ours.into_iter().chain(shares).collect();
    for (_, command) in &served {
        let arguments: Vec<_> = command.get_args().map(OsString::from).collect();
        text.push(qemu::shell_line(command.get_program(), &arguments));
        text.push(" &\n");
    }
    if !served.is_empty() {
        let missing = served
            .iter()
            .map(|(socket, _)| format!("[ ! -S {socket} ]"));
        let missing: Vec<_> = missing.collect();
        let missing = missing.join(" || ");
        text.push(format!("while {missing}; do sleep 0.1; done\n"));
    }
    let arguments = qemu::arguments(machine, machine.kernel.path(), &devices);
    text.push(qemu::shell_line(&qemu::program(), &arguments));
    text
}

/// The commands that serve our devices, with their sockets, in slot order.
fn ours(machine: &Machine) -> Vec<(String, Command)> {
    let program = std::env::args_os().next();
    let program = program.unwrap_or_else(|| "hartvisor".into());
    let slots = slots::slots(&machine.config).into_iter();
    let served = slots.filter_map(|slot| {
        let option = slot.option(machine)?;
        let socket = format!("hartvisor-{}.sock", slot.name());
        let mut command = Command::new(&program);
        command.args(["vhost-user", "--once", "--socket", &socket, "--device"]);
        command.arg(option);
        Some((socket, command))
    });
    served.collect()
}
