//! Telemetry on its way: what is to be sent lies in a folder until the receiver has acknowledged it.
//!
//! - [`queue`]: the folder. A record is a file: one export of one signal. Bounded; the oldest go first and are counted.
//! - [`export`]: the ends of the SDK's pipelines. They put into the queue and never wait for the network.
//! - [`send`]: takes from the front, sends, and removes what was acknowledged.
//!
//! A record that was sent but whose acknowledgement was lost is sent again: a receiver has to know it by its content, as
//! the plane does (series and time, span id, hash of a log record).

pub(crate) mod export;
pub(crate) mod queue;
pub(crate) mod send;

pub(crate) use queue::Queue;
