//! The seeds of each target. A target that is started with FUZZ_SEEDS=DIRECTORY writes its seeds
//! there and ends.

use std::path::Path;
use std::{env, fs, io, process};

/// Writes this target's seeds, if it was started for that.
pub fn on_demand(seeds: impl IntoIterator<Item = Vec<u8>>) {
    let Some(directory) = env::var_os("FUZZ_SEEDS") else {
        return;
    };
    for seed in seeds {
        if let Err(error) = write(Path::new(&directory), &seed) {
            eprintln!("seeds: {error}");
            process::exit(1);
        }
    }
    process::exit(0);
}

/// Seeds for a target whose input is a sequence of steps: any bytes are valid, so random ones
/// suffice. They are long, since short ones would only set up a device.
pub fn steps() -> impl Iterator<Item = Vec<u8>> {
    let mut chance = Chance(1);
    let lens = [64, 128, 256, 512, 1024, 2048, 4096];
    let lens = lens.into_iter().flat_map(|len| [len; 8]);
    lens.map(move |len| (0..len).map(|_| chance.next()).collect())
}

/// A seed is named by its content, so that it is written once.
fn write(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    fs::create_dir_all(directory)?;
    fs::write(directory.join(format!("seed-{hash:016x}")), bytes)
}

/// xorshift64: the same numbers on each machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[7]
    }
}
