//! Lab: experiments on generated keys and on temporary clusters. The report of each has tables,
//! charts and an explanation of the result.
//!
//! **Invariant:** an experiment changes no data that it did not create, and removes everything that
//! it created, even if it is cancelled. If its process is killed, the next experiment in the same
//! folder removes its files.
//! **Not here:** the command line with its progress bars, and storing reports in files (both
//! `cli`).
#![forbid(unsafe_code)]

pub mod cached_reads;
pub mod chart;
mod clients;
pub mod conflicts;
pub mod crash;
pub mod databases;
mod dataset;
pub mod disturbance;
pub mod experiment_observer;
pub mod grow;
mod growth;
pub mod indexes;
pub mod key_set;
pub mod killed_writer;
pub mod lab_cluster;
pub mod lab_error;
pub mod levels;
pub mod machine;
pub mod network;
mod node_faults;
pub mod placement_trial;
mod random;
pub mod replicas;
pub mod report;
pub mod run;
pub mod shard_counts;
pub mod strategies;
pub mod tcp_link;
pub mod tour;
pub mod work_folder;
