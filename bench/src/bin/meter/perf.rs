//! The kernel's performance counters (perf_event_open(2)): KVM's events on this CPU, and the VMM's
//! own activity.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use bench::record::Counts;
use nix::libc::c_char;
use perf_event::data::Record as Data;
use perf_event::events::{Event, Hardware, Software, Tracepoint};
use perf_event::{Builder, Clock, Counter, SampleFlag, Sampler};

/// Guest page faults by cause: instruction, load, store (privileged architecture, table of scause).
const FAULTS: &str = "scause == 20 || scause == 21 || scause == 23";

/// Exits to user space other than interruptions by a signal.
const WANTED: &str = "errno == 0";

/// Size of the sample buffer in bytes: some thousand samples.
const BUFFER: usize = 1 << 17;

/// The counters of all values in [`Counts`].
pub(crate) struct Counters {
    exits: Counter,
    faults: Counter,
    userspace: Counter,
    programs: Vec<OfProgram>,
}

/// The activity of a program or of one of its threads.
struct OfProgram {
    syscalls: Counter,
    switches: Counter,
    /// `None` if the CPU cannot filter by mode (Sscofpmf): the kernel rejects the event.
    instructions: Option<Counter>,
}

impl Counters {
    /// Counters for the next program that this one starts, from its exec on. Only for one program:
    /// an event is enabled by one exec only.
    pub(crate) fn for_next_program() -> Result<Counters> {
        Counters::with(vec![OfProgram::new(next_program)?])
    }

    /// Counters for running threads.
    pub(crate) fn of_threads(threads: &[i32]) -> Result<Counters> {
        let of = |&thread: &i32| {
            OfProgram::new(|builder| {
                builder.observe_pid(thread).any_cpu();
            })
        };
        Counters::with(threads.iter().map(of).collect::<Result<_>>()?)
    }

    fn with(programs: Vec<OfProgram>) -> Result<Counters> {
        Ok(Counters {
            exits: of_cpu("kvm/kvm_exit", None)?,
            faults: of_cpu("kvm/kvm_exit", Some(FAULTS))?,
            userspace: of_cpu("kvm/kvm_userspace_exit", None)?,
            programs,
        })
    }

    /// Reads the current values.
    pub(crate) fn read(&mut self) -> Result<Counts> {
        let mut counts = Counts {
            exits: self.exits.read()?,
            faults: self.faults.read()?,
            userspace: self.userspace.read()?,
            ..Counts::default()
        };
        for program in &mut self.programs {
            counts.syscalls += program.syscalls.read()?;
            counts.switches += program.switches.read()?;
            counts.instructions += match &mut program.instructions {
                Some(counter) => counter.read()?,
                None => 0,
            };
        }
        Ok(counts)
    }
}

impl OfProgram {
    /// Creates counters that `attach` ties to a process.
    fn new(attach: impl Fn(&mut Builder<'_>)) -> Result<OfProgram> {
        let build = |mut builder: Builder<'_>| {
            // Enabled, unless `attach` changes that.
            builder.enabled(true);
            attach(&mut builder);
            builder.build()
        };
        let mut instructions = Builder::new(Hardware::INSTRUCTIONS);
        instructions
            .exclude_kernel(true)
            .exclude_guest(true)
            .exclude_hv(true);
        Ok(OfProgram {
            syscalls: build(included(tracepoint("raw_syscalls/sys_enter")?))?,
            switches: build(included(Software::CONTEXT_SWITCHES))?,
            instructions: build(instructions).ok(),
        })
    }
}

fn tracepoint(name: &str) -> Result<Tracepoint> {
    Tracepoint::with_name(name).with_context(|| format!("the kernel's tracepoint {name}"))
}

fn included<'a>(event: impl Event) -> Builder<'a> {
    let mut builder = Builder::new(event);
    builder.include_kernel().include_hv();
    builder
}

/// Counts in the programs that this one starts, from exec on, not in itself.
fn next_program(builder: &mut Builder<'_>) {
    builder
        .observe_self()
        .any_cpu()
        .inherit(true)
        .enabled(false)
        .enable_on_exec(true);
}

/// Counts on the host's only CPU. KVM runs in threads of the VMM, and there is only one VMM.
fn of_cpu(name: &str, filter: Option<&str>) -> Result<Counter> {
    let mut counter = included(tracepoint(name)?)
        .any_pid()
        .one_cpu(0)
        .enabled(false)
        .build()?;
    if let Some(filter) = filter {
        set_filter(&counter, filter)?;
    }
    counter.enable()?;
    Ok(counter)
}

/// Times of an event, by the clock of [`now`].
pub(crate) struct Moments(Sampler);

impl Moments {
    /// The next entry to a vCPU, and only that one, so that sampling does not slow down anything
    /// later.
    pub(crate) fn next_entry() -> Result<Moments> {
        let moments = Moments::new("kvm/kvm_entry", None)?;
        refresh(&moments.0, 1)?;
        Ok(moments)
    }

    /// Each exit to user space from now on, when the guest needs something from the VMM.
    pub(crate) fn userspace_exits() -> Result<Moments> {
        let mut moments = Moments::new("kvm/kvm_userspace_exit", Some(WANTED))?;
        moments.0.enable()?;
        Ok(moments)
    }

    fn new(name: &str, filter: Option<&str>) -> Result<Moments> {
        let counter = included(tracepoint(name)?)
            .any_pid()
            .one_cpu(0)
            .enabled(false)
            .sample_period(1)
            .sample(SampleFlag::TIME)
            .clockid(Clock::MONOTONIC)
            .build()?;
        if let Some(filter) = filter {
            set_filter(&counter, filter)?;
        }
        Ok(Moments(counter.sampled(BUFFER)?))
    }

    /// Returns the time of the last event in nanoseconds.
    pub(crate) fn last(mut self) -> Result<u64> {
        let mut last = None;
        while let Some(record) = self.0.next_record() {
            if let Data::Sample(sample) = record.parse_record()? {
                last = sample.time().or(last);
            }
        }
        last.context("the event was not seen")
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

mod ioctl {
    //! PERF_EVENT_IOC_SET_FILTER and _REFRESH (linux/perf_event.h).
    #![allow(missing_docs, unsafe_code)]
    use super::c_char;

    // _IOW('$', 6, char *): the pointer itself is the argument, and its size is encoded.
    nix::ioctl_write_ptr_bad!(
        set_filter,
        nix::request_code_write!(b'$', 6, size_of::<*mut c_char>()),
        c_char
    );
    nix::ioctl_write_int_bad!(refresh, nix::request_code_none!(b'$', 2));
}

#[allow(unsafe_code)]
fn set_filter(counter: &impl AsRawFd, filter: &str) -> Result<()> {
    let text = CString::new(filter)?;
    // SAFETY: the kernel copies a NUL-terminated string.
    unsafe { ioctl::set_filter(counter.as_raw_fd(), text.as_ptr()) }
        .with_context(|| format!("filter '{filter}'"))?;
    Ok(())
}

/// Enables the event until it has happened `times` times.
#[allow(unsafe_code)]
fn refresh(sampler: &Sampler, times: i32) -> io::Result<()> {
    let file: RawFd = sampler.as_counter().as_raw_fd();
    // SAFETY: no memory is passed.
    unsafe { ioctl::refresh(file, times) }?;
    Ok(())
}
