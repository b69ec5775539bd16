"""The configuration files of the throw-away SLURM, made for quick tests: short waits, everything on one machine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from cluster.throwaway.layout import Layout, memory_is_held_by_cgroups

PORT = 27600
"""slurmctld, slurmdbd and then the nodes: above SLURM's own 6817-6819, below the ephemeral range."""
ACCOUNT = "study"
"""The account that exists; others are refused."""
PARTITIONS = ("main", "urgent")
"""The default partition, and the one whose jobs preempt its."""
PREEMPTION_GRACE_SECONDS = 10
KILL_WAIT_SECONDS = 3
REQUEUE_HOLD_SECONDS = 8
"""How long a requeued job is held back (`cred_expire`); on real sites, 120. Credentials must outlive a slow launch."""
NODE_TIMEOUT_SECONDS = 10
"""How long a node may be silent before it is DOWN."""


def write(layout: Layout) -> None:
    """Write slurm.conf and its companions, and make the devices that they name."""
    etc = layout.slurm_conf.parent
    layout.slurm_conf.write_text(_slurm_conf(layout))
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n")
    numbers = range(layout.gpus_per_node)
    (etc / "gres.conf").write_text("".join(f"Name=gpu File={layout.gpu(number)}\n" for number in numbers))
    for number in numbers:
        with contextlib.suppress(PermissionError):  # not every container may; SLURM then says so in its logs
            os.mknod(layout.gpu(number), 0o666 | stat.S_IFCHR, os.stat("/dev/null").st_rdev)
    database = etc / "slurmdbd.conf"
    database.touch()
    database.chmod(0o600)  # slurmdbd refuses one that others can read
    database.write_text(_slurmdbd_conf(layout))


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
# Written by cluster.throwaway; gone with `make slurm-down`.
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

# Nodes of one machine, which has fewer cores than they say.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
{_memory()}
GresTypes=gpu
NodeName={nodes} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports} CPUs={layout.cores_per_node} \
RealMemory={layout.memory_mb} Gres=gpu:{layout.gpus_per_node} State=UNKNOWN

# Accounting; a job of an account that does not exist is refused.
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={PORT + 1}
AccountingStoragePass={layout.munge_socket}
AccountingStorageEnforce=associations,limits
AccountingStorageTRES=gres/gpu

# Quick answers.
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=2,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={min(500, layout.memory_mb // layout.cores_per_node)}
KillWait={KILL_WAIT_SECONDS}
SlurmdTimeout={NODE_TIMEOUT_SECONDS}
ReturnToService=2
JobRequeue=1

# Jobs in `urgent` preempt those in `main`: these get the signal they asked for, some seconds, and their place back.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes={nodes} Default=YES MaxTime=24:00:00 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={PREEMPTION_GRACE_SECONDS}
PartitionName=urgent Nodes={nodes} MaxTime=1:00:00 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
"""


def _memory() -> str:
    if memory_is_held_by_cgroups():
        return "TaskPlugin=task/cgroup\nJobAcctGatherFrequency=task=1"
    return "TaskPlugin=task/none\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill"
