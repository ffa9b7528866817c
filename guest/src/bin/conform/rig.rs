//! The devices under test, each of which is restored after every test.

use guest::boot::Outcome;
use guest::fdt::{Board, Slot};
use guest::sbi::Output;
use guest::tap::{Failure, Point, Tap, Verdict};
use guest::virtio::device;
use guest::{Dma, Error, MmioRegisters, Transport, mmio, timer};

use crate::device::{Device, Kind, Met, is_read_only};
use crate::tests::{Area, Test};

/// One device of each kind at most.
const MAX_DEVICES: usize = 7;

/// Longest time for a hostile case, or for one act of a case with very many, in microseconds.
/// Beyond that the case has stopped the machine.
const LONGEST: u64 = 20_000_000;

/// The devices, and the output of results.
pub(crate) struct Rig {
    tap: Tap<Output>,
    devices: [Option<Device>; MAX_DEVICES],
    /// Points that passed, failed, and were skipped.
    counts: [u32; 3],
}

impl Rig {
    /// Finds one device of each kind.
    ///
    /// # Errors
    ///
    /// The arena is too small.
    pub(crate) fn open(board: &Board<'_>, mut dma: Dma, plan: u32) -> Result<Self, Error> {
        let mut rig = Self {
            tap: Tap::new(Output, plan),
            devices: [const { None }; MAX_DEVICES],
            counts: [0; 3],
        };
        rig.tap.comment(format_args!(
            "{}, {} MiB",
            board.model,
            board.memory.1 >> 20
        ));
        let disks = found(board)
            .filter(|(_, transport)| transport.device_id() == device::BLOCK)
            .filter(|(_, transport)| !is_read_only(transport))
            .count();
        for (slot, transport) in found(board) {
            let Some(kind) = Kind::of(&transport) else {
                continue;
            };
            if rig.device(kind).is_some() {
                continue;
            }
            let mut device = Device::new(kind, slot, board.memory, transport, &mut dma)?;
            let usable = match kind {
                Kind::Disk => device.is_for_us(disks == 1),
                _ => true,
            };
            let offered = device.transport.offered();
            let comment = match usable {
                true => "under test",
                false => {
                    "left alone: it is not the only disk, and its serial number is not conform"
                }
            };
            rig.tap.comment(format_args!(
                "{:#x} {kind}, features {offered:#x}, {comment}",
                slot.base
            ));
            if usable && let Some(free) = rig.devices.iter_mut().find(|it| it.is_none()) {
                *free = Some(device);
            }
        }
        for device in rig.devices.iter_mut().flatten() {
            if let Err(failure) = device.paint().and_then(|()| device.heal()) {
                rig.tap.comment(format_args!("{}: {failure}", device.kind));
                device.lost = Some(0);
            }
        }
        Ok(rig)
    }

    fn device(&self, kind: Kind) -> Option<&Device> {
        self.devices.iter().flatten().find(|it| it.kind == kind)
    }

    /// Runs one test on each device that it applies to, and reports one point.
    pub(crate) fn run(&mut self, number: u32, area: &Area, test: &Test) {
        let mut verdict = Ok(Point::Skip("no such device"));
        let mut lost = false;
        for index in 0..MAX_DEVICES {
            let Some(device) = self.devices.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            if !test.on.contains(&device.kind) {
                continue;
            }
            if device.lost.is_some() {
                lost = true;
                continue;
            }
            let (mut result, spent) = attempt(device, number, test);
            let (kind, met) = (device.kind, device.met);
            let state = match device.lost {
                None => "alive after a reset",
                Some(_) => "lost",
            };
            if area.hostile {
                self.tap
                    .comment(format_args!("{kind}: {met}, {state}, {spent} us"));
                if spent > LONGEST {
                    let seconds = spent / 1_000_000;
                    let failure = format_args!("the machine stood still for {seconds} s");
                    result = result.and(Err(Failure::new(failure)));
                }
                result = result.and_then(|point| self.neighbours(kind).map(|()| point));
            }
            let named = result.map_err(|failure| Failure::new(format_args!("{kind}: {failure}")));
            verdict = worse(verdict, named);
        }
        if lost && verdict.is_ok() {
            // The result of the other devices is not enough.
            verdict = Ok(Point::Skip("the device was lost"));
        }
        self.report(test, verdict);
    }

    /// Reports a test that was not requested.
    pub(crate) fn leave(&mut self, test: &Test) {
        self.report(test, Ok(Point::Skip("not selected")));
    }

    /// Checks that the devices of other kinds still work.
    fn neighbours(&mut self, kind: Kind) -> Result<(), Failure> {
        for device in self.devices.iter_mut().flatten() {
            if device.kind != kind && device.lost.is_none() {
                let beside = device.kind;
                device.plain().map_err(|failure| {
                    Failure::new(format_args!("the {beside} beside it: {failure}"))
                })?;
            }
        }
        Ok(())
    }

    fn report(&mut self, test: &Test, verdict: Verdict) {
        let [passed, failed, skipped] = &mut self.counts;
        *match verdict {
            Ok(Point::Pass) => passed,
            Ok(Point::Skip(_)) => skipped,
            Err(_) => failed,
        } += 1;
        self.tap.point(test, verdict);
    }

    /// Prints the summary.
    pub(crate) fn finish(mut self) -> Outcome {
        let [passed, failed, skipped] = self.counts;
        self.tap.comment(format_args!(
            "conform: {passed} ok, {failed} not ok, {skipped} skipped"
        ));
        match self.tap.finish() {
            true => Outcome::Passed,
            false => Outcome::Failed,
        }
    }
}

/// Runs a test on a device, then restores the device. Also returns the microseconds of the test
/// without that, or of its slowest act.
fn attempt(device: &mut Device, number: u32, test: &Test) -> (Verdict, u64) {
    device.met = Met::Nothing;
    device.slowest = None;
    let begin = timer::now();
    let result = (test.run)(device);
    let whole = timer::microseconds(timer::now() - begin);
    let spent = device.slowest.unwrap_or(whole);
    let result = match device.heal() {
        Ok(()) => {
            // Always: this repairs what the test has overwritten.
            let front = device.check_front();
            result.and_then(|point| front.map(|()| point))
        }
        Err(failure) => {
            device.lost = Some(number);
            result.and(Err(failure))
        }
    };
    (result, spent)
}

/// The devices of the machine, in the order of their addresses.
fn found(board: &Board<'_>) -> impl Iterator<Item = (Slot, Transport<MmioRegisters>)> {
    board.slots().filter_map(|slot| {
        let transport = Transport::probe(MmioRegisters::physical(slot.base, mmio::LEN));
        Some((slot, transport.ok()??))
    })
}

/// Combines two verdicts: a failure, else a pass, else a skip.
fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Err(failure), _) | (_, Err(failure)) => Err(failure),
        (Ok(Point::Pass), _) | (_, Ok(Point::Pass)) => Ok(Point::Pass),
        (_, Ok(skip)) => Ok(skip),
    }
}
