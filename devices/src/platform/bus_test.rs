use std::sync::Mutex;

use super::*;

/// Loads return the offset; stores are recorded.
#[derive(Default)]
struct Echo(Mutex<Vec<(u64, Vec<u8>)>>);

impl BusDevice for Echo {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data[0] = u8::try_from(offset).unwrap();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

#[test]
fn an_access_reaches_the_device_that_holds_all_of_it() {
    let (low, high) = (Arc::new(Echo::default()), Arc::new(Echo::default()));
    let mut bus = Bus::default();
    bus.insert(0x1000, 0x100, low.clone()).unwrap();
    bus.insert(0x1100, 0x100, high.clone()).unwrap();
    let mut data = [9; 4];
    bus.read(0x1104, &mut data);
    assert_eq!(data, [4, 0, 0, 0]);
    bus.write(0x10fc, &[1, 2, 3, 4]);
    bus.write(0x10fe, &[1, 2, 3, 4]);
    assert_eq!(*low.0.lock().unwrap(), [(0xfc, vec![1, 2, 3, 4])]);
    assert!(high.0.lock().unwrap().is_empty());
}

#[test]
fn loads_without_a_device_return_zero() {
    let bus = Bus::default();
    for address in [0, 0x1000, u64::MAX] {
        let mut data = [9; 8];
        bus.read(address, &mut data);
        assert_eq!(data, [0; 8]);
        bus.write(address, &data);
    }
}

#[test]
fn ranges_cannot_overlap() {
    let mut bus = Bus::default();
    bus.insert(0x1000, 0x100, Arc::new(Echo::default()))
        .unwrap();
    for base in [0xf01, 0x1000, 0x10ff] {
        let overlap = bus.insert(base, 0x100, Arc::new(Echo::default()));
        assert_eq!(overlap, Err(Overlap { base, len: 0x100 }));
    }
}
