//! The mount namespaces of running cells, kept open so that not the last process of a cell takes its mounts apart: that waits
//! for several RCU grace periods, most of a cell's end. Whoever holds the last copy does it, which is the sweeper.
//!
//! A cache: a cell whose namespace isn't kept ends a little slower. It doesn't know what is mounted.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Pid;

use crate::spec::ProjectId;

/// Most namespaces that are kept, running and ended: one descriptor each, with the id maps' well below the usual limit of
/// 1024.
const KEPT_MAX: usize = 256;

/// The namespaces that are kept.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    running: HashMap<ProjectId, OwnedFd>,
    ended: Vec<OwnedFd>,
}

impl Namespaces {
    /// Keeps the namespace of a cell's first process, a child that isn't reaped yet; if it can't be had, the cell does without.
    pub(crate) fn keep(&mut self, project: &ProjectId, pid: Pid) {
        if self.running.len() + self.ended.len() < KEPT_MAX {
            let path = format!("/proc/{}/ns/mnt", pid.as_raw_nonzero());
            let opened = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            self.running.extend(opened.ok().map(|namespace| (project.clone(), namespace)));
        }
    }

    /// The cell has ended: its namespace is the next sweeper's.
    pub(crate) fn end(&mut self, project: &ProjectId) {
        self.ended.extend(self.running.remove(project));
    }

    /// A sweeper has copies of those that ended, and lets go of them last.
    pub(crate) fn hand_over(&mut self) {
        self.ended.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_kept_as_there_are_descriptors_for() {
        let mut namespaces = Namespaces::default();
        let project = |number: usize| ProjectId::parse(&format!("p{number}")).unwrap();
        let this = rustix::process::getpid();
        (0..KEPT_MAX + 10).for_each(|number| namespaces.keep(&project(number), this));
        assert_eq!(namespaces.running.len(), KEPT_MAX);
        (0..KEPT_MAX + 10).for_each(|number| namespaces.end(&project(number)));
        namespaces.keep(&project(0), this);
        assert_eq!((namespaces.running.len(), namespaces.ended.len()), (0, KEPT_MAX), "until a sweeper has them");
        namespaces.hand_over();
        namespaces.keep(&project(0), this);
        assert_eq!((namespaces.running.len(), namespaces.ended.len()), (1, 0));
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        let mut namespaces = Namespaces::default();
        namespaces.keep(&ProjectId::parse("demo").unwrap(), Pid::from_raw(i32::MAX).unwrap());
        assert!(namespaces.running.is_empty());
    }
}
