//! Watches the built page, so that a new one is embedded; says in one line when there is none. Never fails the build.

use std::path::Path;

fn main() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", dist.display());
    if !dist.join("index.html").is_file() {
        println!("cargo:warning=web/dist is not built: the plane will show a page that says `run make web`");
    }
}
