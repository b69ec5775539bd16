"""Configuration files for the throwaway SLURM cluster: all daemons on one machine, short timeouts for quick tests."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from cluster.throwaway import private_folder
from cluster.throwaway.layout import Layout, cgroups_limit_memory

PORT = 27600
"""First of the consecutive ports of slurmctld, slurmdbd and the nodes.

The ports are above SLURM's default ports and below the range of ephemeral ports.
"""
ACCOUNT = "study"
"""The only account. SLURM rejects jobs that use any other account."""
PARTITIONS = ("main", "urgent")
"""The default partition, and a second partition whose jobs preempt jobs in the default partition."""
PREEMPTION_GRACE_SECONDS = 10
KILL_WAIT_SECONDS = 3
REQUEUE_HOLD_SECONDS = 8
"""Seconds for which SLURM holds a requeued job (`cred_expire`; SLURM's default is 120 s).

With a smaller value, credentials could expire during a slow job launch.
"""
NODE_TIMEOUT_SECONDS = 10
"""Seconds after which SLURM marks a node that does not respond as DOWN."""
_READABLE = 0o644
"""Mode of the files that SLURM commands of all users read."""


def write(layout: Layout) -> None:
    """Write slurm.conf and the other configuration files, and create the device files that they refer to."""
    etc = layout.slurm_conf.parent
    numbers = range(layout.gpus_per_node)
    gpus = "".join(f"Name=gpu File={layout.gpu(number)}\n" for number in numbers)
    private_folder.write(layout.slurm_conf, _slurm_conf(layout), _READABLE)
    private_folder.write(etc / "cgroup.conf", "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n", _READABLE)
    private_folder.write(etc / "gres.conf", gpus, _READABLE)
    private_folder.write(etc / "slurmdbd.conf", _slurmdbd_conf(layout))
    for number in numbers:
        with contextlib.suppress(PermissionError):  # some containers forbid mknod; SLURM logs the missing device
            os.mknod(layout.gpu(number), 0o666 | stat.S_IFCHR, os.stat("/dev/null").st_rdev)


def _slurmdbd_conf(layout: Layout) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost=localhost
DbdPort={PORT + 1}
SlurmUser=root
LogFile={layout.logs}/slurmdbd.log
PidFile={layout.folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


def _slurm_conf(layout: Layout) -> str:
    nodes = f"n[1-{layout.node_count}]"
    ports = f"[{PORT + 2}-{PORT + 1 + layout.node_count}]"
    return f"""\
# Written by cluster.throwaway; removed by `make slurm-down`.
ClusterName=throwaway
SlurmctldHost={socket.gethostname().split(".")[0]}(127.0.0.1)
SlurmctldPort={PORT}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket},cred_expire={REQUEUE_HOLD_SECONDS}
StateSaveLocation={layout.folder}/state
SlurmdSpoolDir={layout.folder}/spool/%n
SlurmctldPidFile={layout.folder}/slurmctld.pid
SlurmdPidFile={layout.folder}/slurmd-%n.pid
SlurmctldLogFile={layout.logs}/slurmctld.log
SlurmdLogFile={layout.logs}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none

# All nodes run on this machine, which has fewer cores than they declare in total.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
{_memory_settings()}
GresTypes=gpu
NodeName={nodes} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports} CPUs={layout.cores_per_node} \
RealMemory={layout.memory_mb} Gres=gpu:{layout.gpus_per_node} State=UNKNOWN

# Accounting. SLURM rejects jobs with an unknown account.
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={PORT + 1}
AccountingStoragePass={layout.munge_socket}
AccountingStorageEnforce=associations,limits
AccountingStorageTRES=gres/gpu

# Short scheduling intervals.
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=2,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={min(500, layout.memory_mb // layout.cores_per_node)}
KillWait={KILL_WAIT_SECONDS}
SlurmdTimeout={NODE_TIMEOUT_SECONDS}
ReturnToService=2
JobRequeue=1

# Jobs in `urgent` preempt jobs in `main`. A preempted job gets the signal it requested, then a grace time, and is
# requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes={nodes} Default=YES MaxTime=24:00:00 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={PREEMPTION_GRACE_SECONDS}
PartitionName=urgent Nodes={nodes} MaxTime=1:00:00 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
"""


def _memory_settings() -> str:
    if cgroups_limit_memory():
        return "TaskPlugin=task/cgroup\nJobAcctGatherFrequency=task=1"
    return "TaskPlugin=task/none\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill"
