//! Implements [`Observer`] with the crate `observe`.

use std::path::Path;
use std::sync::Arc;

use devices::observe::DeviceObserver;
use devices::virtio::VirtioDevice;
use observe::stats::report::Kvm;
use observe::{Names, Observers, Options, VcpuRecorder, rings, trace};

use super::register_names as registers;
use super::{KvmCounters, Moment, Observer, Unobserved, VcpuObserver};
use crate::config;
use crate::error::Error;
use crate::machine::{End, Machine};
use crate::sbi;
use crate::vcpu::Exit;

/// Starts the observers in `wanted` for a run of `machine`.
///
/// # Errors
/// A file cannot be written, a file name is `-`, or the host has no thread left.
pub fn start(wanted: &config::Observe, machine: &Machine) -> Result<Box<dyn Observer>, Error> {
    let config::Observe { stats, trace, rings } = wanted;
    if stats.is_none() && trace.is_none() && rings.is_none() {
        return Ok(Box::new(Unobserved));
    }
    for (option, path) in [("--trace", trace), ("--rings", rings)] {
        if path.as_deref() == Some(Path::new("-")) {
            let problem = format!("{option} -: expected a file, only --stats can go to stderr");
            return Err(Error::Usage(problem));
        }
    }
    let observers = Observers::start(Options {
        stats: stats.as_deref(),
        trace: trace.as_deref(),
        rings: rings.as_deref(),
        ram: machine.config.memory.size,
        names: Names {
            registers: (0..registers::COUNT).map(registers::name).collect(),
            sbi: &sbi::NAMES,
        },
    });
    let observers = observers.map_err(Error::Observe)?;
    Ok(Box::new(Recorded { observers }))
}

/// Returns the text of `hartvisor trace show`.
///
/// # Errors
/// The file is not a trace, or has no such request.
pub fn show_trace(file: &Path, request: Option<u64>) -> Result<String, Error> {
    trace::show::text(file, request).map_err(Error::Observe)
}

/// Returns the drawing of `hartvisor rings`, as SVG or text.
///
/// # Errors
/// The file holds no ring recording, or none of this device and queue.
pub fn draw_rings(
    file: &Path,
    device: Option<&str>,
    queue: Option<u16>,
    svg: bool,
) -> Result<String, Error> {
    let selection = rings::Selection { device, queue, svg };
    rings::draw(file, &selection).map_err(Error::Observe)
}

struct Recorded {
    observers: Observers,
}

impl Observer for Recorded {
    fn device(
        &self,
        name: &str,
        device: &dyn VirtioDevice,
        interrupts: bool,
    ) -> Option<Arc<dyn DeviceObserver>> {
        let kind = format!("{:?}", device.id()).to_lowercase();
        let queues = device.queues().len();
        self.observers.device(name, &kind, queues, interrupts)
    }

    fn vcpu(&self, id: usize) -> Option<Box<dyn VcpuObserver>> {
        let recorder = self.observers.vcpu(id)?;
        Some(Box::new(recorder))
    }

    fn wants_kvm(&self) -> bool {
        self.observers.wants_kvm()
    }

    fn notify(&self, moment: Moment<'_>) {
        match moment {
            Moment::Outputs(lost) => self.observers.outputs(lost),
            Moment::VmStarted { timebase } => self.observers.vm_started(timebase),
            Moment::VmStopped(kvm) => self.observers.vm_stopped(&kvm.into()),
            Moment::Report(kvm) => self.observers.report(kvm.map(Kvm::from).as_ref()),
            Moment::Ended(end) => self.observers.finish(&describe(end)),
        }
    }
}

impl From<KvmCounters> for Kvm {
    fn from(KvmCounters { vm, vcpus }: KvmCounters) -> Kvm {
        Kvm { vm, vcpus }
    }
}

impl VcpuObserver for VcpuRecorder {
    fn left(&mut self, exit: &Exit<'_>) {
        VcpuRecorder::left(
            self,
            match exit {
                Exit::MmioRead(address, _) => observe::Exit::Read(registers::number(*address)),
                Exit::MmioWrite(address, data) => {
                    observe::Exit::Write(registers::number(*address), value(data))
                }
                Exit::Sbi(call) => observe::Exit::Sbi(call.name()),
                Exit::ReadCsr(number, _) => observe::Exit::Csr(*number),
                Exit::Fault => observe::Exit::Fault,
                Exit::Ended(_) => observe::Exit::Ended,
                Exit::Interrupted => observe::Exit::Interrupted,
            },
        );
    }

    fn enters(&mut self) {
        VcpuRecorder::enters(self);
    }
}

/// Returns the value of a store of up to 8 bytes.
fn value(data: &[u8]) -> u64 {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}

fn describe(end: &Result<End, Error>) -> String {
    match end {
        Ok(End::PowerOff) => "power-off".to_owned(),
        Ok(End::Reboot) => "reboot".to_owned(),
        Ok(End::Failure) => "failure".to_owned(),
        Ok(End::Panic) => "panic".to_owned(),
        Ok(End::Left) => "left".to_owned(),
        Ok(End::Signal(number)) => format!("signal {number}"),
        Err(_) => "error".to_owned(),
    }
}
