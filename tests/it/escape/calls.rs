//! System calls that a cell must not get through, and what root of a cell can't become.

use super::Attacker;
use crate::harness::Server;

#[test]
fn system_calls_that_escapes_begin_with_are_refused() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    attacker.file("calls.c", include_str!("calls.c"));
    let said = attacker.run("gcc -o /tmp/calls /workspace/calls.c && /tmp/calls");
    assert!(said.ends_with("\n0 got through\n"), "{said}");
}

#[test]
fn set_id_programs_give_nothing() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let said = attacker.run(
        "chmod 755 /workspace; for place in /tmp /workspace; do \
             cp /usr/bin/id $place/set-id; chmod 6755 $place/set-id; \
             python3 -c 'import os, sys; os.setgroups([]); os.setgid(1000); os.setuid(1000); \
                         os.execv(sys.argv[1], [\"id\", \"-u\"])' $place/set-id; \
         done",
    );
    assert_eq!(said, "1000\n1000\n");
}

#[test]
fn cgroups_and_namespaces_can_not_be_mounted_or_made_by_tools_either() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let said = attacker.run(
        "mkdir /tmp/g; \
         for attack in 'mount -t cgroup -o rdma none /tmp/g' 'mount -t cgroup2 none /tmp/g' 'mount --bind / /tmp/g' \
             'mount -o remount,rw /sys' 'unshare -UrmC true' 'unshare -n true' 'nsenter -t 1 -m true' \
             'chroot / true' 'umount /proc/kcore' 'sysctl -w kernel.core_pattern=|/tmp/x' \
             'hostname other' 'find / -name release_agent -writable | grep .'; do \
             $attack >/tmp/log 2>&1 && echo \"through: $attack\"; \
         done; ls /tmp/g; echo tried",
    );
    assert_eq!(said, "tried\n");
}

#[test]
fn a_crash_leaves_no_core() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let said = attacker.run(
        "cd /workspace; ulimit -c; \
         python3 -c 'import subprocess as s; print(s.run([\"sh\", \"-c\", \"kill -SEGV $$\"]).returncode)'; ls -A",
    );
    assert_eq!(said, "0\n-11\n");
}
