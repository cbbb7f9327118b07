//! Whom the kernel killed for want of memory: its log says so (Documentation/ABI/testing/dev-kmsg), no cgroup does.
//!
//! Reading it takes rights that cells haven't; where the launcher hasn't either, victims have no names. The log is the host's,
//! and a victim's name its own choice: nothing but names of programs in cells' groups leaves this file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use crate::spec::ProjectId;

/// Most records that are read at a time: more than the kernel keeps.
const RECORDS_MAX: u32 = 10_000;

/// Longer than a record is (`PRINTK_MESSAGE_MAX`); one that doesn't fit is skipped by the kernel.
const RECORD_BYTES_MAX: usize = 8192;

/// Most projects whose latest victim is kept: what is asked for is asked for at once.
const KEPT_MAX: usize = 256;

/// The log, from when the launcher started.
#[derive(Debug)]
pub(crate) struct KernelLog {
    records: Option<File>,
    /// What cells' groups have in common: `/<group>/`.
    groups: String,
    victims: HashMap<ProjectId, String>,
}

impl KernelLog {
    /// Opens the log at its end, for cells whose groups are below `group`.
    pub(crate) fn open(group: &str) -> Self {
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed())
            .open("/dev/kmsg");
        let records = opened.and_then(|mut records| records.seek(SeekFrom::End(0)).map(|_| records)).ok();
        Self { records, groups: format!("/{group}/"), victims: HashMap::new() }
    }

    /// The name of the program that was killed last in a project's cell, as far as the kernel gives letters of it.
    pub(crate) fn victim(&mut self, project: &ProjectId) -> Option<String> {
        self.read();
        self.victims.get(project).cloned()
    }

    /// The project's cell has ended.
    pub(crate) fn forget(&mut self, project: &ProjectId) {
        self.victims.remove(project);
    }

    /// Takes in what the kernel has said since.
    fn read(&mut self) {
        let Some(records) = &mut self.records else { return };
        let mut record = [0; RECORD_BYTES_MAX];
        for _ in 0..RECORDS_MAX {
            match records.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    if let Some((project, victim)) = killed(&text, &self.groups) {
                        if self.victims.len() == KEPT_MAX {
                            self.victims.clear();
                        }
                        self.victims.insert(project, victim.to_owned());
                    }
                }
                // It has overwritten some (EPIPE), or one is too long.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::InvalidInput) => {}
                Err(_) => return,
            }
        }
    }
}

/// Of a record that tells of a kill for want of memory in a cell's group: whose cell, and the program's name. The kernel writes
/// what isn't ASCII as `\xhh`.
fn killed<'a>(record: &'a str, groups: &str) -> Option<(ProjectId, &'a str)> {
    let (_, text) = record.split_once(';')?;
    let text = text.lines().next()?.strip_prefix("oom-kill:constraint=CONSTRAINT_MEMCG,")?;
    let (_, rest) = text.split_once(",task_memcg=")?;
    // No path of a cell's group has a comma in it; a program's name may have anything.
    let (group, rest) = rest.split_once(",task=")?;
    let (_, project) = group.rsplit_once(groups)?;
    let (rest, _uid) = rest.rsplit_once(",uid=")?;
    let (name, _pid) = rest.rsplit_once(",pid=")?;
    Some((ProjectId::parse(project).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(group: &str, name: &str) -> String {
        format!(
            "6,870,25743588137,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
             oom_memcg=/cells/demo,task_memcg={group},task={name},pid=15696,uid=332660736\n SUBSYSTEM=x\n"
        )
    }

    #[test]
    fn a_victim_is_found_whatever_it_calls_itself() {
        for name in ["python3", "", "a,task=b", ",pid=1,uid=0", "x y;z", "\\x0a"] {
            let record = record("/user.slice/cells/demo", name);
            let (project, victim) = killed(&record, "/cells/").unwrap();
            assert_eq!((project.as_str(), victim), ("demo", name));
        }
    }

    #[test]
    fn other_records_name_nobody() {
        let demo = record("/cells/demo", "x");
        for other in [
            "6,1,1,-;python3 invoked oom-killer: gfp_mask=0xcc0",
            "",
            ";",
            &record("/system.slice/sshd.service", "sshd"),
            &record("/cells/demo/inner", "x"),
            &record("/cells/..", "x"),
            &demo.replace("MEMCG", "NONE"),
            &demo.replace(",uid=", ","),
        ] {
            assert!(killed(other, "/cells/").is_none(), "{other}");
        }
    }
}
