//! Runs the same machine under QEMU's CPU emulation (TCG), for hosts without RISC-V KVM.
//!
//! ```text
//!   hartvisor ── QMP over a socket pair ──▶ qemu-system-riscv64 ── inherits stdout, stderr
//!     │ │ │         why did the guest end?    │ │
//!     │ │ └── SIGTERM if we get a signal; if we die, the kernel sends it to QEMU
//!     │ └─ our disks and random numbers ◀─────┘ │ vhost-user over socket pairs
//!     └─ back ends of the consoles ◀────────────┘ bytes over socket pairs
//! ```
//! QEMU starts paused and is resumed once QMP works, so that a guest that ends within its first
//! millisecond is not missed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use crate::board::slots::{self, Sockets};
use crate::config::{self, HugePages};
use crate::control::{Control, Request};
use crate::error::Error;
use crate::host::helper;
use crate::host::hugepages;
use crate::host::share::Directory;
use crate::host::terminal;
use crate::machine::{Disk, End, Machine};
use crate::observe::{Moment, Observer};
use crate::shutdown::{Shutdown, Step};
use crate::signals::{self, CONTINUED, POWER_OFF, REPORT, RESIZED, SUSPEND, SignalFd};
use crate::{stderr, story};

mod backends;
mod balloon;
mod command;
mod consoles;
mod dump;
mod error;
mod kernel;
mod power;
mod qmp;

pub use error::QemuError;

use backends::Backends;
pub use command::{Devices, arguments, check, program, shell_line};
use consoles::Carried;
use kernel::Startable;
use power::Ending;
pub use qmp::{OLDEST, OLDEST_TEXT};
use qmp::{Qmp, Reason};

/// How long QEMU may take to exit, including writing back its disks, before it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a machine under QEMU until the guest ends, the user quits, or a signal comes.
///
/// `why` says why KVM is not used, if the user did not choose QEMU. It is printed to stderr once
/// QEMU has started.
pub fn run(machine: &Machine, observer: &dyn Observer, why: Option<&str>) -> Result<End, Error> {
    command::check(machine)?;
    if let Some(path) = &machine.dump_dtb {
        return dump::device_tree(machine, path).map(|()| End::PowerOff);
    }
    if machine.config.memory.hugepages == HugePages::On {
        hugepages::check(machine.config.memory.size)?;
    }
    match start(machine, observer, why, machine.config.devices) {
        // A QEMU without vhost-user reports that only when a front end is requested.
        Err(Error::Qemu(QemuError::Failed { .. }))
            if machine.config.devices == config::Devices::Ours
                && machine.config.vsock.is_none()
                && lacks_vhost_user() =>
        {
            warn!(
                "this QEMU has no vhost-user: the guest gets QEMU's own disks and random number generator"
            );
            machine.disks.iter().for_each(Disk::unlock);
            start(machine, observer, None, config::Devices::Qemu)
        }
        // QEMU only says that the connection was closed.
        ended => ended.map_err(|error| {
            let mut failures = machine.directories.iter().filter_map(Directory::failure);
            failures.next().unwrap_or(error)
        }),
    }
}

/// Whether the installed QEMU was built without the vhost-user front ends.
fn lacks_vhost_user() -> bool {
    let list = Command::new(program()).args(["-device", "help"]).output();
    list.is_ok_and(|list| {
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let has = |name: &'static str| list.contains(name);
        // Check for another device too, in case the program is not QEMU.
        has("virtio-blk-device") && !slots::front_ends().all(has)
    })
}

fn start(
    machine: &Machine,
    observer: &dyn Observer,
    why: Option<&str>,
    devices: config::Devices,
) -> Result<End, Error> {
    // Before there are descriptors for QEMU, which another program would inherit.
    for card in machine.lent_cards() {
        card.lend()?;
    }
    for directory in &machine.directories {
        directory.lend()?;
    }
    // Blocked before QEMU starts, so that no signal is lost in between.
    signals::block(&[SUSPEND])?;
    let signals = [
        &signals::ending()[..],
        &[REPORT, RESIZED, SUSPEND, CONTINUED],
    ]
    .concat();
    let signals = SignalFd::new(&signals).map_err(Error::host("wait for signals"))?;

    let control = Arc::new(Control::new()?);
    let keys = Arc::clone(&control);
    let (mut consoles, sockets) = Carried::open(machine, observer, move |key| keys.typed(key))?;
    let (ours, theirs) = UnixStream::pair().map_err(Error::host("create a socket pair"))?;
    let mut backends = match devices {
        config::Devices::Ours => Backends::start(machine, observer)?,
        config::Devices::Qemu => {
            // QEMU takes the lock.
            machine.disks.iter().try_for_each(Disk::claim)?;
            Backends::default()
        }
    };
    let addresses = backends.addresses();
    let devices = match devices {
        config::Devices::Ours => Devices::Ours(&addresses),
        config::Devices::Qemu => Devices::Qemu,
    };
    let mut qemu = Running::start(machine, &devices, &sockets, theirs.into())?;
    backends.inherited();
    consoles.inherited();
    if let Some(why) = why {
        stderr::line(format_args!("using QEMU: {why}"));
    }
    let mut qmp = Qmp::new(ours, program())?;
    let end = qemu.watch(&mut qmp, &signals, &control, machine, observer)?;
    let status = qemu.finish()?;
    backends.finish();
    if consoles.finish() {
        story::hint_at_silence(machine, "the guest wrote nothing to hvc0");
    }
    how_it_ended(&qmp, end, status)
}

/// `end` is why this process ended QEMU, if it did.
fn how_it_ended(qmp: &Qmp, end: Option<End>, status: ExitStatus) -> Result<End, Error> {
    match (end, qmp.reason()) {
        (Some(end), _) => Ok(end),
        (None, Some(Reason::GuestShutdown)) => Ok(End::PowerOff),
        (None, Some(Reason::GuestReset)) => Ok(End::Reboot),
        (None, Some(Reason::GuestPanic)) => Ok(End::Failure),
        // QEMU itself received a signal.
        (None, Some(Reason::HostSignal)) => Ok(End::Signal(libc::SIGTERM)),
        (None, Some(Reason::HostOther)) => Ok(End::Left),
        // Another program told QEMU to quit, so abruptly that its reason was lost.
        (None, None) if qmp.resumed() && status.success() => Ok(End::Left),
        (None, None) if !qmp.greeted() && status.success() => {
            Err(Error::from(QemuError::NotQemu {
                program: qmp.program().into(),
                status,
            }))
        }
        (None, None) => Err(Error::from(QemuError::Failed {
            program: qmp.program().into(),
            status: status.to_string(),
        })),
    }
}

/// A running QEMU. Dropping it kills QEMU.
struct Running {
    child: Child,
}

impl Running {
    /// Starts QEMU with `qmp` as its end of the QMP connection.
    fn start(
        machine: &Machine,
        devices: &Devices<'_>,
        consoles: &Sockets,
        qmp: OwnedFd,
    ) -> Result<Running, Error> {
        let program = program();
        let kernel = Startable::new(&machine.kernel)?;
        for card in machine.lent_cards() {
            inherit(card.lend()?)?;
        }
        for directory in &machine.directories {
            inherit(directory.lend()?)?;
        }
        let mut command = Command::new(&program);
        command
            .args(command::carried(
                machine,
                kernel.path(),
                devices,
                Some(consoles),
            ))
            .args(command::run_arguments(&qmp))
            .stdin(Stdio::null());
        inherit(&qmp)?;
        if let Startable::Copy(copy, _) = &kernel {
            inherit(copy)?;
        }
        let parent = getpid();
        #[expect(
            unsafe_code,
            reason = "the only way to have QEMU end when we are killed"
        )]
        // SAFETY: between fork and exec the closure only makes system calls and does not allocate.
        unsafe {
            command.pre_exec(move || {
                // This process waits for blocked signals; QEMU must not inherit the mask.
                // A terminal sends SIGTSTP to QEMU, too, but QEMU must first pause the guest; then
                // this process stops it.
                signals::reset()?;
                set_parent_process_death_signal(Some(Signal::TERM))?;
                // If the parent died just before that call, nobody would send the signal.
                if getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            })
        };
        let child = command
            .spawn()
            .map_err(|source| not_started(&program, source))?;
        Ok(Running { child })
    }

    /// Serves QMP until QEMU closes it. Returns why this process ended QEMU, if it did: a signal,
    /// or the user, whose keys `control` has.
    fn watch(
        &mut self,
        qmp: &mut Qmp,
        signals: &SignalFd,
        control: &Control,
        machine: &Machine,
        observer: &dyn Observer,
    ) -> Result<Option<End>, Error> {
        let mut shutdown = Shutdown::new(machine.config.shutdown_timeout);
        let mut ending = Ending::default();
        loop {
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            let ready = signals.wait_for([qmp.as_fd(), control.as_fd()], ending.deadline.map(left));
            let [ready, _] = ready.map_err(Error::host("wait for QEMU"))?;
            let signal = next_signal(signals, observer, qmp, machine)?.map(|signal| match signal {
                POWER_OFF => Request::PowerOff(End::Signal(signal)),
                _ => Request::Shutdown(End::Signal(signal)),
            });
            match signal.or_else(|| power::typed(control)) {
                Some(Request::PowerOff(end)) if ending.end.is_none() => match shutdown.request() {
                    Step::Ask if qmp.power_off()? => ending.asked = end,
                    Step::Same => {}
                    Step::Ask | Step::End => self.send(ending.signal_to_send(end)),
                },
                Some(Request::PowerOff(end) | Request::Shutdown(end)) => {
                    self.send(ending.signal_to_send(end));
                }
                _ => {}
            }
            if ending.deadline.is_some_and(|at| at <= Instant::now()) {
                self.send(ending.signal_to_send(ending.asked));
            }
            let ran = qmp.resumed();
            if ready && !qmp.serve()? {
                // A signal to the whole process group reaches QEMU as well, and possibly first.
                let signal = next_signal(signals, observer, qmp, machine)?;
                return Ok(ending.end.or(signal.map(End::Signal)));
            }
            if !ran {
                qmp.set_balloon(machine)?;
            }
            match qmp.take_asked() {
                _ if ending.end.is_some() => {}
                Some(true) => ending.deadline = Some(shutdown.announce()),
                Some(false) => self.send(ending.signal_to_send(ending.asked)),
                None => {}
            }
            if qmp.take_stopped() {
                self.send(Signal::STOP);
                terminal::suspend(signals::stop);
                self.send(Signal::CONT);
                qmp.go_on()?;
            }
        }
    }

    fn send(&self, signal: Signal) {
        // It may have exited already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    fn finish(mut self) -> Result<ExitStatus, Error> {
        self.child.wait().map_err(Error::host("wait for QEMU"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither has an effect on a child that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the next signal that ends the run, if there is one. Handles the others.
fn next_signal(
    signals: &SignalFd,
    observer: &dyn Observer,
    qmp: &mut Qmp,
    machine: &Machine,
) -> Result<Option<i32>, Error> {
    loop {
        match signals.take().map_err(Error::host("read a signal"))? {
            Some(REPORT) => observer.notify(Moment::Report(None)),
            Some(RESIZED) => qmp.set_balloon(machine)?,
            Some(SUSPEND) => qmp.stop()?,
            Some(CONTINUED) => terminal::continued(),
            other => return Ok(other),
        }
    }
}

/// Lets a child inherit a descriptor under the same number.
fn inherit(fd: impl AsFd) -> Result<(), Error> {
    helper::inherit(fd).map_err(Error::host("pass a descriptor to QEMU"))
}

/// Returns why QEMU could not be started: it does not exist, or may not be executed.
pub fn not_started(program: &OsStr, source: io::Error) -> Error {
    let program = program.to_string_lossy().into();
    match source.kind() {
        io::ErrorKind::NotFound => Error::from(QemuError::Missing { program }),
        _ => Error::from(QemuError::Start { program, source }),
    }
}
