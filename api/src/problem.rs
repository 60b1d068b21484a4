//! What can be wrong with a node: one taxonomy for detectors, conditions, playbooks and the plane.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! problem_kinds {
    ($($kind:ident: $says:literal),+ $(,)?) => {
        /// Kind of a node problem; its name is also the type of the Node condition.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ProblemKind {
            $(#[doc = $says] $kind,)+
        }

        impl ProblemKind {
            /// All kinds, in the order of the taxonomy.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// Type of the Node condition, which is the kind's name.
            pub const fn condition_type(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),+ }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$kind => $says),+ }
            }
        }
    };
}

problem_kinds! {
    KernelDeadlock: "The kernel reported a deadlock.",
    KernelOops: "The kernel hit an oops and may be inconsistent.",
    KernelBug: "A kernel assertion failed.",
    KernelPanic: "The kernel panicked.",
    MemoryCorruption: "Kernel memory was corrupted or used after it was freed.",
    HungTask: "A task has been blocked in the kernel for minutes.",
    SoftLockup: "A CPU has not scheduled for many seconds.",
    RcuStall: "An RCU grace period does not end.",
    OutOfMemory: "The kernel killed a process for lack of memory.",
    FilesystemReadOnly: "A filesystem turned read-only.",
    FilesystemCorrupt: "A filesystem reported corruption.",
    DiskFailing: "A disk reports errors that precede its failure.",
    DiskPressurePredicted: "A disk will be full soon.",
    MemoryHardwareError: "The memory controller reported errors.",
    CpuHardwareError: "A CPU reported a machine check.",
    PcieError: "A PCIe device reported errors.",
    NetworkLinkFlapping: "A network link goes up and down.",
    NetworkUnreachable: "The node cannot reach its network.",
    DnsFailing: "Names do not resolve.",
    ClockUnsynchronized: "The clock is not synchronised.",
    RuntimeUnhealthy: "The container runtime does not answer.",
    KubeletUnhealthy: "The kubelet does not answer.",
    ConntrackExhausted: "The connection tracking table is full.",
    FileDescriptorsExhausted: "File descriptors run out.",
    PidsExhausted: "Process ids run out.",
    ThermalThrottling: "The CPU is slowed down by heat.",
    GpuFault: "A GPU reported a fault.",
    CertificateExpiring: "A certificate expires soon.",
    FrequentRestarts: "A service restarts too often.",
    Custom: "A custom check failed.",
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.condition_type())
    }
}

/// A name that is no problem kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no problem kind")]
pub struct UnknownProblemKind(pub String);

impl FromStr for ProblemKind {
    type Err = UnknownProblemKind;

    fn from_str(text: &str) -> Result<Self, UnknownProblemKind> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.condition_type() == text)
            .ok_or_else(|| UnknownProblemKind(text.to_owned()))
    }
}

/// How bad a problem is; ordered from harmless to fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warning,
    /// The node serves, but worse.
    Degraded,
    /// The node cannot be trusted with work.
    Fatal,
}

impl Severity {
    /// Lower-case name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Degraded => "degraded",
            Self::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One detected problem, as `evergreen-agent detect` prints it: one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// What it is.
    pub kind: ProblemKind,
    /// How bad it is.
    pub severity: Severity,
    /// Class of a kernel crash (`HANG`, `DoS`, `BUG`, `NULL-POINTER-DEREFERENCE`, `MEMORY_SAFETY_BUG`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_type: Option<String>,
    /// One line for people.
    pub summary: String,
    /// The line that raised it.
    pub first_line: String,
    /// Lines that support it, bounded.
    pub evidence: Vec<String>,
    /// How often it was seen.
    pub count: u64,
    /// When, as the source told it (kernel seconds or RFC 3339); empty when the source tells no time.
    pub at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_that_reads_back() {
        for kind in ProblemKind::ALL {
            assert_eq!(kind.condition_type().parse::<ProblemKind>().unwrap(), *kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.condition_type());
        }
    }

    #[test]
    fn fatal_is_the_worst() {
        assert!(Severity::Fatal > Severity::Degraded && Severity::Warning > Severity::Info);
    }
}
