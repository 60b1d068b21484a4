//! What the agent itself takes: it must not become the trouble that it looks for.

use std::io;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::source::{About, Findings, Look, Source, absent};
use crate::sources::series::{Reading, SeriesName};

/// The agent's own process.
#[derive(Default)]
pub struct Own {
    system: Option<System>,
}

impl Source for Own {
    fn about(&self) -> &'static About {
        &About {
            name: "agent",
            reads: &["the agent's own process"],
            measures: &["agent.memory"],
            series: &["agent.rss_bytes", "agent.cpu_ms"],
            says: "memory and CPU time that the agent takes itself",
            needs: "nothing",
        }
    }

    fn read(&mut self, _look: &Look<'_>) -> io::Result<Findings> {
        let pid = Pid::from_u32(std::process::id());
        if self.system.is_none() {
            self.system = System::new().ok();
        }
        let system = self.system.as_mut().ok_or_else(|| absent("this system tells nothing about processes"))?;
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        let process = system.process(pid).ok_or_else(|| absent("the agent's own process is not to be seen"))?;
        let mut found = Findings::default();
        let resident = process.memory();
        let says = format!("the agent itself takes {} MiB", resident >> 20);
        found.figure("agent.memory", "", resident as f64, says);
        found.reading(Reading::level(SeriesName::node("agent", "rss_bytes"), resident as f64));
        let cpu_ms = process.accumulated_cpu_time();
        found.reading(Reading::counts(SeriesName::node("agent", "cpu_ms"), cpu_ms));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    #[test]
    fn the_agent_sees_what_it_takes() {
        let host = Host::of(&[]);
        let found = host.read(&mut Own::default()).unwrap();
        assert!((1e6..1e12).contains(&value(&found, "agent.memory")));
        assert_eq!(found.readings.len(), 2);
    }
}
