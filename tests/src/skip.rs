//! A check that cannot run here says so and is counted; it never passes in silence.

use std::io::Write;

/// Names a file that collects one line for each skipped check; `make test` counts its lines.
const FILE: &str = "EVERGREEN_SKIPPED";

/// Reports that `check` is skipped for want of `what`, which should name the remedy.
pub fn skipped(check: &str, what: &str) {
    println!("SKIPPED: {check}: {what}");
    let Some(path) = std::env::var_os(FILE).filter(|path| !path.is_empty()) else { return };
    let line = format!("{check}: {}\n", what.replace('\n', " "));
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("{FILE}={} cannot be written: {error}", path.display());
    }
}
