use std::sync::Mutex;

use devices::platform::bus::BusDevice;

use super::*;
use crate::hart::model::Model;

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 1 << 20;
const DEVICE: u64 = 0x1000_0000;
const VECTOR: u64 = RAM + 0x100;

/// Loads return the last stored value. Stores are recorded with their address and length.
#[derive(Default)]
struct Register8 {
    bytes: Mutex<[u8; 8]>,
    stores: Mutex<Vec<(u64, usize)>>,
}

impl BusDevice for Register8 {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.bytes.lock().unwrap()[..data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.bytes.lock().unwrap()[..data.len()].copy_from_slice(data);
        self.stores.lock().unwrap().push((offset, data.len()));
    }
}

struct Rig {
    hart: Model,
    faults: Faults,
    bus: Bus,
    device: Arc<Register8>,
}

impl Rig {
    /// A hart in S-mode at the start of RAM, which contains these instructions, with a0 = `address`
    /// and interrupts enabled.
    fn new(code: &[u8], address: u64) -> Rig {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 1 << 20)]).unwrap();
        memory.write_slice(code, GuestAddress(RAM)).unwrap();
        let hart = Model::new(&[
            (Register::Pc, RAM),
            (Register::Mode, 1),
            (Register::Sstatus, sstatus::SIE),
            (Register::Stvec, VECTOR),
            (Register::X(10), address),
            (Register::X(11), 0x1122_3344_8899_aabb),
            (Register::F(10), 0x1122_3344_5566_7788),
        ]);
        let device = Arc::<Register8>::default();
        let mut bus = Bus::default();
        bus.insert(DEVICE, 0x1000, Arc::clone(&device) as _)
            .unwrap();
        Rig { hart, faults: Faults::new(Arc::new(memory), Budget::default()), bus, device }
    }

    fn answer(&mut self) -> Option<End> {
        self.faults.answer(&mut self.hart, &self.bus).unwrap()
    }

    /// Asserts that the hart took an exception at the start of RAM.
    #[track_caller]
    fn assert_exception(&self, cause: Cause, value: u64) {
        let names = [
            Register::Scause,
            Register::Stval,
            Register::Sepc,
            Register::Pc,
            Register::Sstatus,
        ];
        let found = names.map(|it| self.hart.value(it));
        let status = sstatus::SPP | sstatus::SPIE;
        assert_eq!(found, [cause as u64, value, RAM, VECTOR, status]);
        assert_eq!(self.hart.value(Register::Mode), 1);
    }

    /// Asserts that the instruction was executed and, if it was a store, made this access to the
    /// device.
    #[track_caller]
    fn assert_executed(&self, length: u64, stored: &[(u64, usize)]) {
        assert_eq!(self.hart.value(Register::Pc), RAM + length);
        assert_eq!(*self.device.stores.lock().unwrap(), stored);
    }
}

fn word(word: u32) -> [u8; 4] {
    word.to_le_bytes()
}

fn half(half: u16) -> [u8; 2] {
    half.to_le_bytes()
}

#[test]
fn an_exception_keeps_the_mode_and_the_interrupts_that_were() {
    for (mode, before, after) in [
        (0, 0, 0),
        (0, sstatus::SIE | sstatus::SPP, sstatus::SPIE),
        (1, sstatus::SPIE | sstatus::FS, sstatus::SPP | sstatus::FS),
    ] {
        let mut hart = Model::new(&[
            (Register::Mode, mode),
            (Register::Sstatus, before),
            (Register::Stvec, VECTOR | 1),
        ]);
        let exception = Exception { cause: Cause::LoadAccess, value: 3 };
        exception.inject(&mut hart).unwrap();
        assert_eq!(hart.value(Register::Sstatus), after);
        assert_eq!(hart.value(Register::Pc), VECTOR);
    }
}

#[test]
fn a_fetch_from_where_no_memory_is_is_an_exception_at_the_half_that_failed() {
    let mut rig = Rig::new(&[], 0);
    rig.hart.set(Register::Pc, 0xffff_ffff_8020_0000).unwrap();
    assert_eq!(rig.answer(), None);
    assert_eq!(rig.hart.value(Register::Scause), 1);
    assert_eq!(rig.hart.value(Register::Stval), 0xffff_ffff_8020_0000);
    assert_eq!(rig.hart.value(Register::Sepc), 0xffff_ffff_8020_0000);

    let last = RAM + SIZE - 2;
    let mut rig = Rig::new(&[], 0);
    let full: u16 = 0x0513;
    rig.faults
        .memory
        .store(full, GuestAddress(last), Ordering::Relaxed)
        .unwrap();
    rig.hart.set(Register::Pc, last).unwrap();
    assert_eq!(rig.answer(), None);
    assert_eq!(rig.hart.value(Register::Stval), RAM + SIZE);
    assert_eq!(rig.hart.value(Register::Sepc), last);
}

#[test]
fn a_misaligned_access_to_a_device_is_an_access_fault() {
    let mut rig = Rig::new(&word(0x0015_2503), DEVICE); // lw a0, 1(a0)
    assert_eq!(rig.answer(), None);
    rig.assert_exception(Cause::LoadAccess, DEVICE + 1);

    let mut rig = Rig::new(&word(0x00b5_30a3), DEVICE); // sd a1, 1(a0)
    assert_eq!(rig.answer(), None);
    rig.assert_exception(Cause::StoreAccess, DEVICE + 1);
}

#[test]
fn what_is_atomic_on_a_device_is_an_access_fault() {
    for (code, cause) in [
        (0x00b5_252f, Cause::StoreAccess), // amoadd.w a0, a1, (a0)
        (0x1005_252f, Cause::LoadAccess),  // lr.w a0, (a0)
        (0x0045_200f, Cause::StoreAccess), // cbo.zero (a0)
    ] {
        let mut rig = Rig::new(&word(code), DEVICE);
        assert_eq!(rig.answer(), None);
        rig.assert_exception(cause, DEVICE);
    }
    let mut rig = Rig::new(&word(0x0685_6407), DEVICE); // vluxei32.v v8, (a0), v8
    assert_eq!(rig.answer(), None);
    rig.assert_exception(Cause::LoadAccess, 0);
}

#[test]
fn an_aligned_access_of_one_register_reaches_the_device() {
    let mut rig = Rig::new(&word(0x00a5_2427), DEVICE); // fsw fa0, 8(a0)
    assert_eq!(rig.answer(), None);
    rig.assert_executed(4, &[(8, 4)]);
    assert_eq!(
        rig.device.bytes.lock().unwrap()[..4],
        [0x88, 0x77, 0x66, 0x55]
    );

    let mut rig = Rig::new(&half(0x8d2c), DEVICE); // c.sh a1, 2(a0)
    assert_eq!(rig.answer(), None);
    rig.assert_executed(2, &[(2, 2)]);
}

#[test]
fn a_load_fills_its_register_as_its_kind_wants_it() {
    let full = 0x8877_6655_f4f3_f2f1_u64;
    for (code, register, value) in [
        (0x0005_2507, Register::F(10), 0xffff_ffff_f4f3_f2f1), // flw fa0, 0(a0)
        (0x0005_3507, Register::F(10), full),                  // fld fa0, 0(a0)
        (0x810c, Register::X(11), 0xf1),                       // c.lbu a1, 0(a0)
        (0x854c, Register::X(11), 0xffff_ffff_ffff_f2f1),      // c.lh a1, 0(a0)
    ] {
        let mut rig = Rig::new(&word(code), DEVICE);
        *rig.device.bytes.lock().unwrap() = full.to_le_bytes();
        assert_eq!(rig.answer(), None);
        rig.assert_executed(if code & 3 == 3 { 4 } else { 2 }, &[]);
        assert_eq!(rig.hart.value(register), value, "{code:#x}");
        // The guest's kernel saves only dirty floating-point registers.
        let dirty = rig.hart.value(Register::Sstatus) & sstatus::FS;
        assert_eq!(dirty != 0, matches!(register, Register::F(_)));
    }
}

#[test]
fn an_access_beyond_the_end_of_ram_is_an_exception() {
    let end = RAM + SIZE;
    let mut rig = Rig::new(&word(0x0005_3507), end); // fld fa0, 0(a0)
    assert_eq!(rig.answer(), None);
    rig.assert_exception(Cause::LoadAccess, end);
    // An access that starts in RAM: the address of the second page.
    let mut rig = Rig::new(&word(0x0005_3507), end - 4);
    assert_eq!(rig.answer(), None);
    rig.assert_exception(Cause::LoadAccess, end);
}

#[test]
fn a_load_that_nobody_claims_is_forgotten_before_the_exception() {
    let end = RAM + SIZE;
    // KVM reports the second page, because the first one is RAM.
    for address in [end, end - 4] {
        let mut rig = Rig::new(&word(0x0005_3503), address); // ld a0, 0(a0)
        rig.faults.unclaimed(&mut rig.hart).unwrap();
        rig.assert_exception(Cause::LoadAccess, end);
        assert_eq!(rig.hart.value(Register::X(10)), address);
        assert_eq!(rig.hart.completed, 1);
    }
    // Below RAM nothing changes: the hypervisor completes the access.
    let mut rig = Rig::new(&word(0x0005_3503), 0x3000_0000);
    rig.faults.unclaimed(&mut rig.hart).unwrap();
    assert_eq!(rig.hart.value(Register::Pc), RAM);
    assert_eq!(rig.hart.completed, 0);
}

#[test]
fn a_page_table_outside_ram_is_an_access_fault() {
    let mut rig = Rig::new(&word(0x0005_3503), 0x1_4000_0000);
    let root = RAM + 0x1000;
    let put = |index: u64, entry: u64| {
        let at = GuestAddress(root + 8 * index);
        rig.faults
            .memory
            .store(entry, at, Ordering::Relaxed)
            .unwrap();
    };
    put(2, RAM >> 2 | 0xcf);
    put(5, 0x3000_0000 >> 2 | 1);
    rig.hart.set(Register::Satp, 8 << 60 | root >> 12).unwrap();
    rig.faults.unclaimed(&mut rig.hart).unwrap();
    rig.assert_exception(Cause::LoadAccess, 0x1_4000_0000);
}

#[test]
fn an_exception_that_cannot_be_taken_ends_the_guest() {
    let mut rig = Rig::new(&[], 0);
    rig.hart.set(Register::Stvec, 0x3000_0001).unwrap();
    rig.hart.set(Register::Pc, 0x3000_0000).unwrap();
    assert_eq!(rig.answer(), Some(End::Failure));
}

#[test]
fn what_is_no_access_ends_the_guest_and_what_is_memory_goes_on() {
    let mut rig = Rig::new(&word(0x13), 0); // nop
    assert_eq!(rig.answer(), Some(End::Failure));
    let mut rig = Rig::new(&word(0x0005_3507), RAM); // fld fa0, 0(a0)
    assert_eq!(rig.answer(), None);
    assert_eq!(rig.hart.value(Register::Pc), RAM);
}

#[test]
fn a_run_has_so_many_answers_and_then_ends() {
    let mut rig = Rig::new(&word(0x0015_2503), DEVICE); // lw a0, 1(a0)
    rig.faults.budget = Budget(Arc::new(AtomicI64::new(2)));
    let mut other = rig.faults.clone();
    assert_eq!(rig.answer(), None);
    rig.hart.set(Register::Pc, RAM).unwrap();
    assert_eq!(other.answer(&mut rig.hart, &rig.bus).unwrap(), None);
    rig.hart.set(Register::Pc, RAM).unwrap();
    assert_eq!(rig.answer(), Some(End::Failure));
    assert_eq!(rig.hart.value(Register::Pc), RAM);
}

#[test]
fn a_hundred_answers_come_at_once_and_then_one_each_interval() {
    let mut faults = Rig::new(&[], 0).faults;
    let now = Instant::now();
    assert!((0..100).all(|_| faults.delay(now).is_zero()));
    assert_eq!(faults.delay(now), INTERVAL);
    // After a wait the next failure waits as long again. After a long time without failures the
    // whole burst is available.
    assert_eq!(faults.delay(now + INTERVAL), INTERVAL);
    let later = now + Duration::from_secs(60);
    assert!((0..100).all(|_| faults.delay(later).is_zero()));
}
