//! What isolates a running guest from the host and from other guests.
//!
//! | file | what it decides |
//! | --- | --- |
//! | [`spec`] | the OCI specification that `libcontainer` runs: mounts, `/dev`, masked paths, limits |
//! | [`capabilities`] | which capabilities the guest's root has |
//! | [`seccomp`] | which system calls it has not |
//! | [`notify`] | which system calls wait for its broker |
//! | [`cgroup`] | where its processes are counted and limited |
//! | [`limits`], [`bucket`] | its limits, and which files of the controllers hold them; the token bucket |
//! | [`sysctl`] | kernel parameters of its namespaces |
//! | [`network`] | its addresses, over a pair of virtual devices |
//!
//! The first three are pure: settings in, data out.

pub mod bucket;
pub mod capabilities;
pub mod cgroup;
pub mod limits;
pub mod network;
pub mod notify;
pub mod seccomp;
pub mod spec;
pub mod sysctl;
