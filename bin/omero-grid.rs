//! The `omero-grid` program: everything is in the library.

fn main() -> std::process::ExitCode {
    omero_grid::cli::main()
}
