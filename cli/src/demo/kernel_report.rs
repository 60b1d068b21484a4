//! The kernel report that story one appends to a node's log: what a 6.1 kernel prints when a driver follows a null
//! pointer in a work queue. Made up for the demo, in the kernel's own format.

/// Priority of the report's first lines, as in `/dev/kmsg`: alert.
pub const ALERT: u8 = 1;
/// Priority of the others: warning.
pub const WARNING: u8 = 4;

/// The report, line by line: priority and text.
pub const OOPS: &[(u8, &str)] = &[
    (ALERT, "BUG: kernel NULL pointer dereference, address: 0000000000000018"),
    (ALERT, "#PF: supervisor read access in kernel mode"),
    (ALERT, "#PF: error_code(0x0000) - not-present page"),
    (6, "PGD 0 P4D 0"),
    (WARNING, "Oops: 0000 [#1] PREEMPT SMP NOPTI"),
    (WARNING, "CPU: 3 PID: 4127 Comm: kworker/3:2 Not tainted 6.1.0-28-amd64 #1"),
    (WARNING, "Hardware name: Example Systems R750/0PJ7YJ, BIOS 1.9.2 11/17/2024"),
    (WARNING, "Workqueue: events blkdev_retry_work [blkdev]"),
    (WARNING, "RIP: 0010:blkdev_retry_work+0x2f/0x140 [blkdev]"),
    (WARNING, "RSP: 0018:ffffb0d9c0b7fe68 EFLAGS: 00010246"),
    (WARNING, "RAX: 0000000000000000 RBX: ffff9c1a4e2d6c00 RCX: 0000000000000000"),
    (WARNING, "Call Trace:"),
    (WARNING, " <TASK>"),
    (WARNING, " process_one_work+0x1e5/0x3b0"),
    (WARNING, " worker_thread+0x50/0x3a0"),
    (WARNING, " kthread+0xe9/0x110"),
    (WARNING, " ret_from_fork+0x22/0x30"),
    (WARNING, " </TASK>"),
    (WARNING, "---[ end trace 0000000000000000 ]---"),
];

/// The condition that the report leads to.
pub const CONDITION: &str = "KernelOops";
