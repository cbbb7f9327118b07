//! placeholder
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
/// The function that unpacks a layer: request, blob, folder of layers, progress.
pub type Unpack = fn(request: &str, blob: File, layers: OwnedFd, progress: &mut dyn FnMut(u64)) -> Result<(), String>;
/// Main.
pub fn main(_unpack: Unpack) -> ExitCode { unimplemented!() }
