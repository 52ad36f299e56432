//! Writes the manual pages and the completions of bash, zsh and fish into a directory: made from the commands' own help.
//!
//! `packaging/deb` runs it; by hand: `cargo run --example manual -- DIRECTORY`.

#![allow(clippy::print_stderr, reason = "a tool of the build")]

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use clap_complete::Shell;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("manual: name the directory: manual DIRECTORY");
        return ExitCode::from(64);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    // what an earlier version had and this one has not
    match fs::remove_dir_all(&pages) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(wardlink::cli::command(), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut wardlink::cli::command(), "wardlink", &completions)?;
    }
    Ok(())
}
