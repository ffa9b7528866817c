//! The other harts: SBI HSM, IPI and RFENCE, shared memory, interrupts to other harts.

mod tasks;

use core::sync::atomic::Ordering;

use guest::fdt::{self, Board};
use guest::hart::{self, Hart};
use guest::tap::{Failure, Point, Verdict};
use guest::timer::until;
use guest::virtio::device;
use guest::{Block, block, ensure, irq, patch};

use super::{Rig, TIMEOUT, deadline, devices, interrupt};

pub(super) const POINTS: u32 = 10;

/// A hartid that does not exist.
const NOBODY: usize = 0x7fff_fff0;
/// HSM's states (SBI 2.0, table 20).
const STARTED: usize = 0;
const STOPPED: usize = 1;
const SUSPENDED: usize = 4;
/// SBI's errors (SBI 2.0, table 1).
const INVALID_PARAM: isize = -3;
const ALREADY_AVAILABLE: isize = -6;
/// How long a hart must sleep to count as suspended, in microseconds.
const ASLEEP: u64 = 20_000;
/// Entries of the disk's queue.
const QUEUE_SIZE: u16 = 8;

/// One test: a name and a function of the other harts.
type Test = (&'static str, fn(&mut Rig<'_>, &Harts) -> Verdict);

const TESTS: [Test; POINTS as usize] = [
    ("smp: harts are STOPPED until they are started", stopped),
    ("smp: each starts with its hartid and opaque value", start),
    (
        "smp: a second start is ALREADY_AVAILABLE, a wrong hartid INVALID_PARAM",
        refused,
    ),
    ("smp: the state of a wrong hartid is INVALID_PARAM", nobody),
    ("smp: IPIs go to every hart and come from every hart", rings),
    ("smp: all count in one place, and nothing is lost", counts),
    ("smp: after a remote fence new code runs", fences),
    ("smp: a suspended hart sleeps until an IPI", suspends),
    ("smp: harts stop and start again", restarts),
    ("smp: a device interrupts another hart", elsewhere),
];

/// The place of [`nobody`] in [`TESTS`], and why it may fail.
const NOBODY_POINT: usize = 3;
const LOST_ERROR: &str = "Linux's KVM drops the error of hart_get_status, as of 6.12";

/// The harts of this machine.
struct Harts {
    boot: &'static Hart,
    /// Harts beside the boot hart.
    others: usize,
}

impl Harts {
    fn others(&self) -> impl Iterator<Item = &'static Hart> {
        (1..=self.others).map(hart::of)
    }
}

/// Hartids of the other harts, up to the supported number.
fn ids<'a>(rig: &Rig<'a>, boot: usize) -> impl Iterator<Item = usize> + use<'a> {
    fdt::harts(rig.fdt)
        .filter(move |id| *id != boot)
        .take(hart::MAX - 1)
}

pub(super) fn run(rig: &mut Rig<'_>, boot: usize) {
    let others = ids(rig, boot).count();
    rig.tap
        .comment(format_args!("{others} harts beside hart {boot}"));
    let harts = Harts { boot: hart::start(boot), others };
    // All following tests depend on the second test.
    let mut started = true;
    for (number, (name, test)) in TESTS.iter().enumerate() {
        let verdict = match others {
            0 => Ok(Point::Skip("one hart")),
            _ if started => test(rig, &harts),
            _ => Err(Failure::new(format_args!("not all harts are running"))),
        };
        started &= number != 1 || verdict.is_ok();
        if number == NOBODY_POINT && hart::on_kvm() {
            rig.tap.known(name, verdict, LOST_ERROR);
        } else {
            rig.tap.point(name, verdict);
        }
    }
}

fn stopped(rig: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for id in ids(rig, harts.boot.id()) {
        let status = hart::status(id);
        ensure!(
            status.error == 0 && status.value == STOPPED,
            "hart {id}: {status:?}"
        );
    }
    let own = hart::status(harts.boot.id());
    ensure!(own.error == 0 && own.value == STARTED, "this hart: {own:?}");
    Ok(Point::Pass)
}

fn start(rig: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for (index, id) in (1..).zip(ids(rig, harts.boot.id())) {
        let answer = Hart::start(index, id);
        ensure!(answer.is_ok(), "hart {id}: {answer:?}");
    }
    harts.others().try_for_each(|hart| alive(hart, 1))?;
    Ok(Point::Pass)
}

/// Checks that the hart has started this many times, with the right values.
fn alive(hart: &Hart, starts: u32) -> Result<(), Failure> {
    let id = hart.id();
    ensure!(
        until(TIMEOUT, || hart.starts() == starts),
        "hart {id}: {} starts, not {starts}",
        hart.starts()
    );
    let (right, a0, a1) = hart.arrived();
    ensure!(right, "hart {id}: a0 = {a0:#x}, a1 = {a1:#x}");
    // While it spins, it is neither suspended nor stopped.
    hart.word.store(0, Ordering::Relaxed);
    ensure!(hart.give(tasks::spin), "hart {id} cannot be rung");
    let spins = until(TIMEOUT, || hart.word.load(Ordering::Acquire) == 1);
    let status = hart::status(id);
    hart.word.store(2, Ordering::Release);
    let ended = hart.finish(TIMEOUT).is_some();
    ensure!(spins && ended, "hart {id} does not take a task");
    ensure!(
        status.error == 0 && status.value == STARTED,
        "hart {id}: {status:?}"
    );
    Ok(())
}

fn refused(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for hart in harts.others().chain([harts.boot]) {
        let answer = Hart::start(hart.index(), hart.id());
        ensure!(
            answer.error.cast_signed() == ALREADY_AVAILABLE,
            "hart {}: {answer:?}",
            hart.id()
        );
    }
    let answer = sbi_rt::hart_start(NOBODY, 0, 0);
    ensure!(
        answer.error.cast_signed() == INVALID_PARAM,
        "hart {NOBODY:#x}: {answer:?}"
    );
    Ok(Point::Pass)
}

fn nobody(_: &mut Rig<'_>, _: &Harts) -> Verdict {
    let answer = hart::status(NOBODY);
    ensure!(
        answer.error.cast_signed() == INVALID_PARAM,
        "hart {NOBODY:#x}: {answer:?}"
    );
    Ok(Point::Pass)
}

fn rings(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for hart in harts.others() {
        let id = hart.id();
        let before = hart.ipis();
        let answer = hart.ring();
        ensure!(answer.is_ok(), "to hart {id}: {answer:?}");
        ensure!(
            until(TIMEOUT, || hart.ipis() != before),
            "hart {id} did not get its IPI"
        );
        let before = harts.boot.ipis();
        let answer = hart.run(tasks::ring_boot, TIMEOUT);
        ensure!(answer == Some(0), "hart {id} sends: {answer:x?}");
        ensure!(
            until(TIMEOUT, || harts.boot.ipis() != before),
            "the IPI of hart {id} did not come"
        );
    }
    Ok(Point::Pass)
}

fn counts(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    tasks::COUNT.store(0, Ordering::Relaxed);
    for hart in harts.others() {
        ensure!(hart.give(tasks::count), "hart {} is busy", hart.id());
    }
    tasks::count(harts.boot);
    for hart in harts.others() {
        let ended = hart.finish(TIMEOUT).is_some();
        ensure!(ended, "hart {} does not end", hart.id());
    }
    let expected = tasks::ROUNDS * (harts.others + 1);
    let found = tasks::COUNT.load(Ordering::Relaxed);
    ensure!(found == expected, "{found}, not {expected}");
    Ok(Point::Pass)
}

fn fences(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for (value, hart) in (1..=patch::MAX).zip(harts.others().chain(harts.others())) {
        let id = hart.id();
        patch::set(value);
        let mask = sbi_rt::HartMask::from_mask_base(1, id);
        for answer in [
            sbi_rt::remote_fence_i(mask),
            sbi_rt::remote_sfence_vma(mask, 0, usize::MAX),
            sbi_rt::remote_sfence_vma_asid(mask, 0, 4096, 0),
        ] {
            ensure!(answer.is_ok(), "hart {id}: {answer:?}");
        }
        let found = hart.run(tasks::call, TIMEOUT);
        ensure!(
            found == Some(value.into()),
            "hart {id}: {found:?}, not {value}"
        );
    }
    Ok(Point::Pass)
}

fn suspends(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for hart in harts.others() {
        let id = hart.id();
        hart.word.store(0, Ordering::Relaxed);
        ensure!(hart.give(tasks::suspend), "hart {id} is busy");
        // KVM also reports SUSPENDED for a hart that waits for its task (WFI).
        let reached = until(TIMEOUT, || hart.word.load(Ordering::Acquire) == 1);
        ensure!(reached, "hart {id} does not take a task");
        let asleep = || {
            let status = hart::status(id);
            status.error == 0 && status.value == SUSPENDED
        };
        ensure!(
            until(TIMEOUT, asleep),
            "hart {id} is not SUSPENDED: {:?}",
            hart::status(id)
        );
        let early = hart.finish(ASLEEP);
        ensure!(early.is_none(), "hart {id} woke up by itself: {early:x?}");
        let before = hart.ipis();
        let answer = hart.ring();
        ensure!(answer.is_ok(), "to hart {id}: {answer:?}");
        let answer = hart.finish(TIMEOUT);
        ensure!(answer == Some(0), "hart {id} suspends: {answer:x?}");
        ensure!(
            hart.ipis() != before,
            "hart {id} woke up without taking the IPI"
        );
    }
    Ok(Point::Pass)
}

fn restarts(_: &mut Rig<'_>, harts: &Harts) -> Verdict {
    for round in 2..4 {
        for hart in harts.others() {
            let id = hart.id();
            ensure!(hart.give(tasks::stop), "hart {id} is busy");
            let stopped = || {
                let status = hart::status(id);
                status.error == 0 && status.value == STOPPED
            };
            ensure!(
                until(TIMEOUT, stopped),
                "hart {id} is not STOPPED: {:?}",
                hart::status(id)
            );
            let answer = Hart::start(hart.index(), id);
            ensure!(answer.is_ok(), "hart {id} again: {answer:?}");
        }
        harts.others().try_for_each(|hart| alive(hart, round))?;
    }
    Ok(Point::Pass)
}

fn elsewhere(rig: &mut Rig<'_>, harts: &Harts) -> Verdict {
    let Some((slot, transport)) = devices(rig.board, device::BLOCK).next() else {
        return Ok(Point::Skip("no block device"));
    };
    ensure!(
        irq::watch(slot),
        "no interrupt controller, or the slot has no source"
    );
    let mut disk = Block::new(transport, &mut rig.dma, block::WANTED, QUEUE_SIZE)?;
    for hart in harts.others() {
        let id = hart.id();
        let Some(controller) = Board::read(rig.fdt, id)?.controller else {
            return Err(Failure::new(format_args!(
                "the controller does not reach hart {id}"
            )));
        };
        irq::ignore(slot.source);
        irq::prepare(hart.index(), controller);
        hart.word.store(slot.source as usize, Ordering::Relaxed);
        let listens = hart.run(tasks::listen, TIMEOUT);
        ensure!(listens == Some(1), "hart {id} does not listen");
        let read = || {
            let mut sector = [0; block::SECTOR];
            Ok(disk.read(0, &mut sector, &mut deadline())?)
        };
        // The hart sleeps (WFI) without a timer, which no operating system does for long. An IPI
        // always wakes it.
        let slept_on = interrupt::arrives(slot, read, || {
            hart.ring();
        })?;
        if slept_on {
            rig.tap.comment(format_args!(
                "hart {id} slept on with the interrupt pending until an IPI woke it (Linux's KVM with guest interrupt files, before 6.18)"
            ));
        }
        let handled = irq::seen(slot).hart;
        ensure!(
            handled == hart.index(),
            "it went to number {handled}, not to {}",
            hart.index()
        );
        let ignores = hart.run(tasks::ignore, TIMEOUT);
        ensure!(ignores.is_some(), "hart {id} is stuck");
    }
    disk.into_transport().reset()?;
    Ok(Point::Pass)
}
