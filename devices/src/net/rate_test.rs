use super::*;

const RATE: Rate = Rate { bytes: Some(1_000_000), frames: Some(1000) };

fn after(now: Instant, milliseconds: u64) -> Instant {
    now + Duration::from_millis(milliseconds)
}

/// How many frames of `bytes` pass from `from` to `to`, if there are always some.
fn passed(limit: &mut Limit, bytes: u64, from: Instant, to: Instant) -> u64 {
    let (mut now, mut count) = (from, 0);
    loop {
        match limit.delay(now) {
            None => {
                limit.spend(bytes);
                count += 1;
            }
            Some(delay) => now += delay,
        }
        if now >= to {
            return count;
        }
    }
}

#[test]
fn bytes_and_frames_pass_at_their_rates_after_a_burst() {
    let now = Instant::now();
    // The first second, with a burst of a tenth of it.
    for (bytes, expected) in [(10_000, 110), (500, 1100)] {
        let mut limit = Limit::new(RATE);
        let from = after(now, 1000);
        let count = passed(&mut limit, bytes, from, after(from, 1000));
        assert!(count.abs_diff(expected) <= 2, "{bytes}: {count}");
        let count = passed(&mut limit, bytes, after(from, 1000), after(from, 2000));
        assert!(count.abs_diff(expected * 10 / 11) <= 2, "{bytes}: {count}");
    }
}

/// Firecracker's issue 259: a frame larger than the bucket blocked for ever.
#[test]
fn a_frame_larger_than_the_bucket_passes_and_the_next_one_waits_for_longer() {
    let rate = Rate { bytes: Some(1000), frames: None };
    let now = after(Instant::now(), 1000);
    let mut limit = Limit::new(rate);
    assert_eq!(limit.delay(now), None);
    limit.spend(65_000);
    let delay = limit.delay(now).unwrap();
    assert!((64_800..=65_000).contains(&delay.as_millis()), "{delay:?}");
    assert_eq!(limit.delay(now + delay), None);
}

#[test]
fn nothing_is_kept_longer_than_a_burst() {
    let mut limit = Limit::new(RATE);
    let later = after(Instant::now(), 3_600_000);
    let count = passed(&mut limit, 10_000, later, after(later, 1));
    assert!((10..=12).contains(&count), "{count}");
}

#[test]
fn without_a_rate_nothing_waits() {
    let mut limit = Limit::new(Rate::default());
    let now = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(limit.delay(now), None);
        limit.spend(u64::MAX);
    }
}

#[test]
fn a_debt_without_end_does_not_overflow() {
    let mut limit = Limit::new(Rate { bytes: Some(1), frames: None });
    let now = Instant::now();
    for _ in 0..3 {
        limit.spend(u64::MAX);
    }
    assert!(limit.delay(now).is_some());
}

/// A cable that takes frames and has none, or refuses them.
struct Cable(bool);

impl BackEnd for Cable {
    fn offloads(&self) -> u64 {
        0
    }

    fn set_offloads(&mut self, _: u64) {}

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        Vec::new()
    }

    fn receive(&mut self, _: &mut Writable, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _: &mut Readable) -> io::Result<()> {
        match self.0 {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn is_gone(&self, _: &io::Error) -> bool {
        false
    }
}

fn send_one(limited: &mut Limited) -> bool {
    let rig = crate::rig::Rig::new(8);
    let mut frame = Readable::new(rig.memory.clone());
    frame.append(crate::rig::DATA, 100).unwrap();
    limited.send(&mut frame).is_ok()
}

#[test]
fn a_refused_frame_arms_the_timer_and_passes_when_it_expires() {
    let rate = Rate { bytes: None, frames: Some(20) };
    let mut limited = Limited::new(Box::new(Cable(true)), Rate::default(), rate).unwrap();
    while send_one(&mut limited) {}
    let mut count = [0; 8];
    let mut fds = [rustix::event::PollFd::new(
        &limited.timer,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
    rustix::io::read(&limited.timer, &mut count).unwrap();
    assert!(send_one(&mut limited));
}

/// Firecracker's issue 371: a frame that was tried again was paid for twice.
#[test]
fn a_frame_that_the_back_end_refuses_costs_nothing() {
    let rate = Rate { bytes: None, frames: Some(1) };
    let mut limited = Limited::new(Box::new(Cable(false)), Rate::default(), rate).unwrap();
    for _ in 0..100 {
        assert!(!send_one(&mut limited));
    }
    assert_eq!(limited.send.delay(Instant::now()), None);
}
