use std::sync::{Arc, Mutex};

use super::*;

/// The requests after these stores.
fn asked(stores: &[(u64, &[u8])]) -> Vec<Finish> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let finisher = Finisher::new(move |finish| log.lock().unwrap().push(finish));
    for (offset, data) in stores {
        finisher.write(*offset, data);
    }
    seen.lock().unwrap().clone()
}

#[test]
fn the_lower_half_is_the_request_and_the_upper_half_the_code() {
    let stores: [(u64, &[u8]); 4] = [
        (0, &0x5555_u32.to_le_bytes()),
        (0, &0x002a_3333_u32.to_le_bytes()),
        (0, &0x7777_u32.to_le_bytes()),
        (0, &0x5555_u16.to_le_bytes()),
    ];
    let expected = [Finish::Pass, Finish::Fail(42), Finish::Reset, Finish::Pass];
    assert_eq!(asked(&stores), expected);
}

#[test]
fn anything_else_does_nothing() {
    let stores: [(u64, &[u8]); 6] = [
        (4, &0x5555_u32.to_le_bytes()),
        (0, &[0x55]),
        (0, &0x5555_u64.to_le_bytes()),
        (0, &0_u32.to_le_bytes()),
        (0, &0x5554_u32.to_le_bytes()),
        (0, &[]),
    ];
    assert_eq!(asked(&stores), []);
    let mut data = [0; 4];
    Finisher::new(|_| ()).read(0, &mut data);
    assert_eq!(data, [0; 4]);
}
