//! CPU time of the whole node, from /proc/stat.

use std::io;

use serde::{Deserialize, Serialize};

/// Microseconds of one tick of /proc/stat: USER_HZ is 100 on every architecture that we support.
const TICK_MICROSECONDS: u64 = 10_000;

/// CPU time since boot, microseconds over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTimes {
    /// Time in which a CPU did something, time stolen by the hypervisor excluded.
    pub busy_us: u64,
    /// All time.
    pub total_us: u64,
    /// Logical CPUs that are online.
    pub cpus: usize,
}

impl CpuTimes {
    /// Reads the contents of /proc/stat.
    ///
    /// # Errors
    /// When it has no line of all CPUs with at least four numbers.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut lines = text.lines();
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "proc/stat has no line that begins with `cpu `");
        let all = lines.next().and_then(|line| line.strip_prefix("cpu ")).ok_or_else(wrong)?;
        // user nice system idle iowait irq softirq steal; guest time behind them is part of user time.
        let mut fields = [0_u64; 8];
        let mut count = 0;
        for (field, text) in fields.iter_mut().zip(all.split_ascii_whitespace()) {
            *field = text.parse().map_err(|_| wrong())?;
            count += 1;
        }
        if count < 4 {
            return Err(wrong());
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = fields;
        let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
        let total = [busy, idle, iowait, steal].into_iter().fold(0, u64::saturating_add);
        let cpus = lines.take_while(|line| line.starts_with("cpu")).count().max(1);
        Ok(Self {
            busy_us: busy.saturating_mul(TICK_MICROSECONDS),
            total_us: total.saturating_mul(TICK_MICROSECONDS),
            cpus,
        })
    }

    /// Share of time that was busy since an earlier reading; `None` when no time passed or the counters went back.
    pub fn utilization_since(&self, before: &Self) -> Option<f64> {
        let total = self.total_us.checked_sub(before.total_us).filter(|total| *total > 0)?;
        // Idle time may be corrected downwards by the kernel, so busy may grow by more than the total.
        let busy = self.busy_us.saturating_sub(before.busy_us).min(total);
        Some(busy as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waiting_for_disks_is_not_busy() {
        let before = CpuTimes::parse("cpu  10 0 10 80 0\n").unwrap();
        let after = CpuTimes::parse("cpu  10 0 10 80 100\n").unwrap();
        assert_eq!(after.utilization_since(&before), Some(0.0));
    }

    #[test]
    fn counters_that_go_back_give_no_utilisation() {
        let before = CpuTimes::parse("cpu  10 0 10 80\n").unwrap();
        assert_eq!(CpuTimes::parse("cpu  1 0 1 8\n").unwrap().utilization_since(&before), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,200}") {
            let _ = CpuTimes::parse(&text);
        }

        #[test]
        fn utilisation_is_a_share(a in proptest::array::uniform8(0_u64..1 << 40), b in proptest::array::uniform8(0_u64..1 << 40)) {
            let line = |fields: [u64; 8]| format!("cpu  {}\n", fields.map(|f| f.to_string()).join(" "));
            let (a, b) = (CpuTimes::parse(&line(a)).unwrap(), CpuTimes::parse(&line(b)).unwrap());
            if let Some(share) = b.utilization_since(&a) {
                prop_assert!((0.0..=1.0).contains(&share));
            }
        }
    }
}
