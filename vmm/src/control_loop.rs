//! The control loop: what the main thread does while a guest runs on KVM. It owns the [`Vm`] and
//! serves the requests.

use std::sync::Arc;

use log::info;

use crate::consoles::Consoles;
use crate::control::{Control, Controls, Request};
use crate::error::Error;
use crate::hart::fault::Budget;
use crate::host::terminal;
use crate::machine::{Disk, End, Machine};
use crate::observe::{Moment, Observer};
use crate::shutdown::{self, Shutdown, Step};
use crate::vm::{Context, Vm, Why};
use crate::{dtb, kvm, signals, story};

/// Runs `machine` until it ends. A reboot creates everything anew except the disks and the back
/// ends of the consoles.
///
/// # Errors
/// This host's KVM cannot run it, or a system call failed.
pub fn run(machine: &Machine, observer: &dyn Observer) -> Result<End, Error> {
    run_with(machine, observer, &Arc::new(Control::new()?))
}

/// As [`run`], and takes requests from `control` too.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    machine: &Machine,
    observer: &dyn Observer,
    control: &Arc<Control>,
) -> Result<End, Error> {
    let kvm = kvm::open()?;
    let mut controls = Controls::new(Arc::clone(control))?;
    if machine.dump_dtb.is_none() {
        machine.disks.iter().try_for_each(Disk::lock)?;
    }
    let keys = Arc::clone(control);
    let consoles = Consoles::open(machine, move |key| keys.typed(key))?;
    observer.notify(Moment::Outputs(consoles.lost()));
    let budget = Budget::default();
    let mut shutdown = Shutdown::new(machine.config.shutdown_timeout);
    let context = Context { machine, consoles: &consoles, budget: &budget, control, observer };
    loop {
        let mut vm = Vm::new(&kvm, context)?;
        if let Some(path) = &machine.dump_dtb {
            return dtb::dump(path, &vm.device_tree()?).map(|()| End::PowerOff);
        }
        vm.boot()?;
        let end = loop {
            match vm.run(&mut controls)? {
                Why::Ended(end) | Why::Asked(Request::Shutdown(end)) => break end,
                Why::Rebooted => break End::Reboot,
                Why::Asked(Request::PowerOff(end)) => match shutdown.request() {
                    Step::Ask if vm.power_off() => controls.end_at(shutdown.announce(), end),
                    Step::Ask | Step::End => break end,
                    Step::Same => {}
                },
                Why::Asked(Request::Pause) => {
                    vm.pause();
                }
                Why::Asked(Request::Resume) => vm.resume(),
                Why::Asked(Request::Suspend) => {
                    let ran = vm.pause();
                    terminal::suspend(signals::stop);
                    if ran {
                        vm.resume();
                    }
                }
                Why::Asked(Request::Continued) => terminal::continued(),
                Why::Asked(Request::Resize) => vm.resize(),
                Why::Asked(Request::Report) => vm.report(),
            }
        };
        if matches!(end, End::Signal(_)) {
            shutdown::at_once_by_another_signal();
        }
        drop(vm);
        // A guest that was asked to power off does not start again.
        let over = end != End::Reboot || machine.config.no_reboot.is_some();
        if over || shutdown.is_asked() {
            if !consoles.were_used() {
                story::hint_at_silence(machine, "the guest used no console");
            }
            return Ok(end);
        }
        info!("the guest reboots");
    }
}
