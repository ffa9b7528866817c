use std::time::Instant;

use super::*;
use crate::rig::Wire;

const SECOND: u64 = 1_000_000_000;

fn rtc() -> (Rtc, Wire) {
    let wire = Wire::default();
    (Rtc::new(Box::new(wire.clone())), wire)
}

fn get(rtc: &Rtc, offset: u64) -> u32 {
    let mut data = [0; 4];
    rtc.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn set(rtc: &Rtc, offset: u64, value: u32) {
    rtc.write(offset, &value.to_le_bytes());
}

/// As a driver reads: low, then high.
fn time(rtc: &Rtc) -> u64 {
    let low = get(rtc, register::TIME_LOW);
    u64::from(get(rtc, register::TIME_HIGH)) << 32 | u64::from(low)
}

fn set_pair(rtc: &Rtc, low_register: u64, value: u64) {
    set(rtc, low_register + 4, high(value));
    set(rtc, low_register, low(value));
}

#[test]
fn the_time_is_the_hosts() {
    let (rtc, _) = rtc();
    let before = host();
    let now = time(&rtc);
    assert!((before..=host()).contains(&now));
}

#[test]
fn reading_the_low_half_latches_the_high_one() {
    let (rtc, _) = rtc();
    set_pair(&rtc, register::TIME_LOW, 5 << 32);
    let low = get(&rtc, register::TIME_LOW);
    // The clock passes a carry; the latched half does not change.
    let later = (6 << 32) | u64::from(low);
    rtc.shared.state().offset = later.wrapping_sub(host());
    assert_eq!(get(&rtc, register::TIME_HIGH), 5);
    assert_eq!(time(&rtc) >> 32, 6);
}

#[test]
fn a_clock_that_was_set_continues_from_there() {
    let (rtc, _) = rtc();
    set_pair(&rtc, register::TIME_LOW, 1000 * SECOND);
    let first = time(&rtc);
    assert!((1000 * SECOND..1030 * SECOND).contains(&first), "{first}");
    assert!(time(&rtc) >= first);
}

#[test]
fn an_alarm_in_the_past_fires_at_once_and_is_cleared() {
    let (rtc, wire) = rtc();
    set(&rtc, register::IRQ_ENABLED, 1);
    set_pair(&rtc, register::ALARM_LOW, 1);
    assert!(wire.is_high());
    assert_eq!(get(&rtc, register::ALARM_STATUS), 0);
    set(&rtc, register::CLEAR_INTERRUPT, 1);
    assert!(!wire.is_high());
}

#[test]
fn an_alarm_in_the_future_fires_then_and_not_before() {
    let (rtc, wire) = rtc();
    set(&rtc, register::IRQ_ENABLED, 1);
    let (start, delay) = (Instant::now(), Duration::from_millis(50));
    set_pair(&rtc, register::ALARM_LOW, time(&rtc) + 50_000_000);
    assert_eq!(get(&rtc, register::ALARM_STATUS), 1);
    while !wire.is_high() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    assert!(start.elapsed() >= delay);
}

#[test]
fn a_cleared_alarm_stays_silent_and_a_disabled_interrupt_waits() {
    let (rtc, wire) = rtc();
    set_pair(&rtc, register::ALARM_LOW, u64::MAX);
    set(&rtc, register::CLEAR_ALARM, 1);
    assert_eq!(get(&rtc, register::ALARM_STATUS), 0);
    set_pair(&rtc, register::ALARM_LOW, 1);
    assert!(!wire.is_high());
    set(&rtc, register::IRQ_ENABLED, 1);
    assert!(wire.is_high());
}

#[test]
fn dropping_the_clock_drops_its_line() {
    let (rtc, _) = rtc();
    set_pair(&rtc, register::ALARM_LOW, u64::MAX);
    let shared = Arc::downgrade(&rtc.shared);
    drop(rtc);
    assert_eq!(shared.strong_count(), 0, "the thread still has it");
}

#[test]
fn odd_accesses_do_nothing() {
    let (rtc, _) = rtc();
    let mut data = [0; 8];
    rtc.read(0, &mut data);
    rtc.read(1, data.get_mut(..2).unwrap());
    rtc.write(0x10, &[1]);
    rtc.write(0xfff, &[1; 4]);
    assert_eq!((data, get(&rtc, register::IRQ_ENABLED)), ([0; 8], 0));
}
