//! All sources there are, in the order in which they are asked: what is cheap first, what may wait last.

use super::{
    certificates::Certificates,
    cgroups::{Cgroups, Vmstat},
    clock::Clock,
    disks::{Arrays, Blocks, Nvme},
    gpu::Gpus,
    hardware::{MemoryErrors, Throttles},
    limits::{Conntrack, FileDescriptors, Pids, Saturation},
    links::{Bonds, Links, Ports},
    mounts::Mounts,
    own::Own,
    sensors::{Hwmon, Zones},
    services::{Dns, Kubelet, Runtime},
    smart::Smart,
    source::{About, Source},
    stack::{Routes, Stack},
};

/// All sources, as they were never asked.
pub fn all() -> Vec<Box<dyn Source>> {
    vec![
        Box::new(FileDescriptors),
        Box::new(Pids),
        Box::<Conntrack>::default(),
        Box::new(Saturation),
        Box::<Vmstat>::default(),
        Box::<Cgroups>::default(),
        Box::<Mounts>::default(),
        Box::<Blocks>::default(),
        Box::new(Nvme),
        Box::new(Arrays),
        Box::<MemoryErrors>::default(),
        Box::<Throttles>::default(),
        Box::new(Hwmon),
        Box::new(Zones),
        Box::<Links>::default(),
        Box::<Bonds>::default(),
        Box::<Ports>::default(),
        Box::<Stack>::default(),
        Box::<Routes>::default(),
        Box::<Clock>::default(),
        Box::<Certificates>::default(),
        Box::<Own>::default(),
        Box::<Kubelet>::default(),
        Box::<Runtime>::default(),
        Box::<Dns>::default(),
        Box::<Smart>::default(),
        Box::<Gpus>::default(),
    ]
}

/// What all sources are.
pub fn abouts() -> Vec<&'static About> {
    all().iter().map(|source| source.about()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::probes::thresholds::MEASURES;

    #[test]
    fn every_source_has_a_name_of_its_own_and_every_measure_a_source() {
        let abouts = abouts();
        let names: BTreeSet<&str> = abouts.iter().map(|about| about.name).collect();
        assert_eq!(names.len(), abouts.len());
        let measured: Vec<&str> = abouts.iter().flat_map(|about| about.measures).copied().collect();
        assert_eq!(measured.iter().collect::<BTreeSet<_>>(), MEASURES.iter().collect());
        assert_eq!(measured.len(), MEASURES.len(), "two sources measure the same");
        assert!(
            abouts.iter().all(|about| !about.reads.is_empty() && !about.says.is_empty() && !about.needs.is_empty())
        );
    }
}
