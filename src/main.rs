//! The binary: hands the arguments to `cli` and its verdict to the shell.

fn main() -> std::process::ExitCode {
    wardlink::cli::main()
}
