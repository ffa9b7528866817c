//! In the emulated host: starts a VMM as the plan says, again and again, and prints a record of each start.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bench::pattern::{BLOCK, BLOCKS, fill};
use bench::plan::Plan;

mod perf;
mod start;

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: meter PLAN")?;
    let plan = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&plan)?;
    ensure!(
        std::thread::available_parallelism()?.get() == 1,
        "one CPU: KVM's counters are read on the first alone"
    );
    for (from, to) in &plan.files {
        copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    keep_hugepages(plan.hugepages)?;
    make_disk(&plan.disk)?;
    start::run(&plan.warm_up, plan.ram)?;
    for start in &plan.starts {
        make_disk(&plan.disk)?;
        let record = start::run(start, plan.ram)?;
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

fn copy(from: &PathBuf, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

/// The disk as it is before anything was written.
fn make_disk(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut bytes = vec![0; BLOCK];
    for block in 0..BLOCKS {
        fill(&mut bytes, block, 0);
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn keep_hugepages(wanted: u64) -> Result<()> {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    if wanted > 0 {
        fs::write(FILE, wanted.to_string())?;
        let kept = fs::read_to_string(FILE)?;
        ensure!(
            kept.trim() == wanted.to_string(),
            "of {wanted} huge pages there are {kept}"
        );
    }
    Ok(())
}
