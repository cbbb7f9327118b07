//! The launcher's program: joins the crate that makes cells with the crate that unpacks images. Neither knows the other.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::launcher::main(runner::layer::worker)
}
