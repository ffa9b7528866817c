//! `hartvisor trace show` and `hartvisor rings`: print what an earlier run recorded.

use std::fs;
use std::io::{self, Write};

use crate::cli;
use crate::error::Error;
use crate::host::files::FileError;
use crate::observe;

/// `hartvisor trace …`.
///
/// # Errors
/// There is nothing to show.
pub fn trace(options: &cli::Trace) -> Result<u8, Error> {
    let cli::Trace::Show { file, request } = options;
    print(&observe::show_trace(file, *request)?);
    Ok(0)
}

/// `hartvisor rings FILE`.
///
/// # Errors
/// There is nothing to draw, or the drawing cannot be written.
pub fn rings(options: &cli::Rings) -> Result<u8, Error> {
    let (device, svg) = (options.device.as_deref(), options.svg.as_ref());
    let drawing = observe::draw_rings(&options.file, device, options.queue, svg.is_some())?;
    match svg {
        Some(out) => fs::write(out, drawing).map_err(FileError::write("the drawing to", out))?,
        None => print(&drawing),
    }
    Ok(0)
}

fn print(text: &str) {
    // Fails if stdout is closed; there is nobody to report that to.
    let _ = io::stdout().write_all(text.as_bytes());
}
