//! Fuzz targets of the agent, and a driver that needs no engine.

pub mod driver;
pub mod targets;

/// Hands bytes to a target.
///
/// # Panics
/// When there is no target of that name, and when the target does.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("the target is in the list");
    (target.run)(data);
}
