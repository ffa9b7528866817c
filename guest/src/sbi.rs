//! The firmware's services (RISC-V SBI 2.0): console, timer, system reset.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use sbi_rt::{NoReason, Physical, Shutdown, SystemFailure};

/// How the program ends: the reason for the system reset (SRST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Reason 0, none: success.
    Passed,
    /// Reason 1, system failure.
    Failed,
}

/// Most bytes that one call to the firmware prints.
const BUFFER: usize = 128;
/// Most calls for one buffer: DBCN may accept it in parts, or nothing when it is busy.
const ATTEMPTS: u32 = 100_000;

/// Whether the DBCN extension exists: 0 unknown, 1 no, 2 yes.
static DBCN: AtomicU8 = AtomicU8::new(0);

/// The firmware's console, as buffered output that is flushed at the end of a print.
#[derive(Clone, Copy, Debug)]
pub struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.as_bytes().chunks(BUFFER).for_each(put);
        Ok(())
    }

    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> fmt::Result {
        // Formatting produces small pieces, and each call to the firmware may leave the VM.
        let mut buffer = Buffer { bytes: [0; BUFFER], len: 0 };
        fmt::write(&mut buffer, arguments)?;
        buffer.flush();
        Ok(())
    }
}

struct Buffer {
    bytes: [u8; BUFFER],
    len: usize,
}

impl Buffer {
    fn flush(&mut self) {
        put(self.bytes.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len == BUFFER {
                self.flush();
            }
            if let Some(free) = self.bytes.get_mut(self.len) {
                *free = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Prints a line on the firmware's console.
#[macro_export]
macro_rules! println {
    ($($text:tt)+) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::sbi::Output, $($text)+);
    }};
}

/// Prints bytes: by DBCN if it exists, else one by one by the legacy call.
pub fn put(mut bytes: &[u8]) {
    if !has_dbcn() {
        for byte in bytes {
            put_legacy(*byte);
        }
        return;
    }
    for _ in 0..ATTEMPTS {
        if bytes.is_empty() {
            return;
        }
        let written = sbi_rt::console_write(Physical::new(bytes.len(), bytes.as_ptr().addr(), 0));
        if written.error != 0 {
            return;
        }
        bytes = bytes.get(written.value..).unwrap_or_default();
    }
}

/// Prints one byte by the legacy call, even if DBCN exists; `false` if the firmware does not
/// support it.
pub fn put_legacy(byte: u8) -> bool {
    #[expect(deprecated, reason = "for firmware without DBCN")]
    let error = sbi_rt::legacy::console_putchar(byte.into());
    error == 0
}

/// Prints one byte by DBCN; `false` if that does not exist, or does not accept it.
pub fn put_byte(byte: u8) -> bool {
    sbi_rt::console_write_byte(byte).error == 0
}

/// A byte from the firmware's console, `None` without input.
pub fn get() -> Option<u8> {
    if !has_dbcn() {
        #[expect(deprecated, reason = "for firmware without DBCN")]
        return u8::try_from(sbi_rt::legacy::console_getchar()).ok();
    }
    let mut byte = [0];
    let read = sbi_rt::console_read(Physical::new(1, byte.as_mut_ptr().expose_provenance(), 0));
    (read.error == 0 && read.value == 1)
        .then_some(byte)
        .map(|[byte]| byte)
}

fn has_dbcn() -> bool {
    match DBCN.load(Ordering::Relaxed) {
        0 => {
            let found = sbi_rt::probe_extension(sbi_rt::Console).is_available();
            DBCN.store(1 + u8::from(found), Ordering::Relaxed);
            found
        }
        known => known == 2,
    }
}

/// Requests a timer interrupt when the `time` CSR reaches `at`, and clears a pending one. Harts
/// with Sstc have a register for that: see [`crate::timer`].
pub fn set_timer(at: u64) {
    sbi_rt::set_timer(at);
}

/// Powers the machine off.
pub fn shutdown(outcome: Outcome) -> ! {
    match outcome {
        Outcome::Passed => sbi_rt::system_reset(Shutdown, NoReason),
        Outcome::Failed => sbi_rt::system_reset(Shutdown, SystemFailure),
    };
    // Only firmware without SRST returns.
    #[expect(deprecated, reason = "for firmware without SRST")]
    sbi_rt::legacy::shutdown()
}
