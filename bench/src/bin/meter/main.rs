//! Runs in the emulated host. Starts a VMM repeatedly, according to the plan, and prints a record
//! of each start; or, as `meter scale`, many VMs, and prints a sample of each scene.
#![expect(clippy::print_stdout, reason = "a tool for a terminal")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bench::pattern::{BLOCK, BLOCKS, fill};
use bench::plan::{Plan, ScalePlan};
use serde::de::DeserializeOwned;

mod net;
mod output;
mod perf;
mod scale;
mod start;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(
        std::thread::available_parallelism()?.get() == 1,
        "one CPU: KVM's counters are read on the first alone"
    );
    match arguments.as_slice() {
        [path] => starts(&read(path)?),
        [word, path] if word == "scale" => scenes(&read(path)?),
        _ => bail!("usage: meter [scale] PLAN"),
    }
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T> {
    let plan = fs::read(path).with_context(|| format!("read {path}"))?;
    serde_json::from_slice(&plan).with_context(|| format!("{path} holds no plan"))
}

fn starts(plan: &Plan) -> Result<()> {
    copy_all(&plan.files)?;
    keep_hugepages(plan.hugepages)?;
    make_disk(&plan.disk)?;
    if let Some(script) = &plan.network {
        net::set_up(script)?;
    }
    start::run(&plan.warm_up, plan)?;
    for start in &plan.starts {
        make_disk(&plan.disk)?;
        let record = start::run(start, plan)?;
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

fn scenes(plan: &ScalePlan) -> Result<()> {
    copy_all(&plan.files)?;
    for disk in &plan.disks {
        File::create(disk)?.set_len(1 << 20)?;
    }
    scale::run(&plan.warm_up)?;
    for scene in &plan.scenes {
        let sample = scale::run(scene).with_context(|| scene.name.clone())?;
        println!("{}", serde_json::to_string(&sample)?);
    }
    Ok(())
}

fn copy_all(files: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (from, to) in files {
        copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
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

/// Creates the disk in its initial state.
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
