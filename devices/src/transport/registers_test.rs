use super::*;

fn read<const N: usize>(registers: &Registers, offset: u64) -> [u8; N] {
    let mut data = [0xee; N];
    registers.read(offset, &mut data);
    data
}

#[test]
fn a_load_of_any_width_returns_the_bytes_at_its_offset() {
    let registers = Registers::default();
    registers.set(STATUS, 0x0403_0201);
    registers.set(STATUS + 4, 0x0807_0605);
    let config: Vec<u8> = (0x10..0x20).collect();
    registers.set_config(&config);
    assert_eq!(read(&registers, STATUS), [1, 2, 3, 4]);
    assert_eq!(read(&registers, STATUS + 1), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read(&registers, CONFIG + 6), [0x16, 0x17, 0x18]);
    assert_eq!(read(&registers, CONFIG - 2), [0, 0, 0x10, 0x11]);
    assert_eq!(read(&registers, CONFIG + 14), [0x1e, 0x1f, 0, 0]);
}

#[test]
fn bytes_past_the_page_read_as_zero() {
    let registers = Registers::default();
    assert_eq!(read(&registers, PAGE as u64 - 2), [0; 8]);
    assert_eq!(read(&registers, u64::MAX), [0; 4]);
}

#[test]
fn bits_are_added_and_removed_one_by_one() {
    let registers = Registers::default();
    registers.set(STATUS, 3);
    assert_eq!(registers.add(STATUS, 6), 3);
    registers.remove(STATUS, 1);
    assert_eq!(registers.get(STATUS), 6);
}

/// A hypervisor maps whole pages: the registers must be a page of their own.
#[test]
fn the_registers_are_a_whole_page() {
    let registers = Registers::default();
    assert_eq!(registers.as_ptr().addr() % PAGE, 0);
    assert_eq!(size_of::<Page>(), PAGE);
    let distance = |at: usize| (at - registers.as_ptr().addr()) as u64;
    assert_eq!(distance(registers.word(STATUS).as_ptr().addr()), STATUS);
    assert_eq!(distance(registers.0.config[0].as_ptr().addr()), CONFIG);
}
