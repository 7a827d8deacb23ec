"""What the sites' own commands print, for one project and its jobs."""

from __future__ import annotations

PROJECT = "project_2001234"

SEFF = """\
Job ID: {job_id}
Cluster: puhti
User/Group: maija/maija
State: {state} (exit code 0)
Nodes: 2
Cores per node: 2
CPU Utilized: {used}
CPU Efficiency: {ratio}% of 00:06:40 core-walltime
Job Wall-clock time: 00:01:40
Memory Utilized: 2.93 GB
Memory Efficiency: 50.00% of 5.86 GB (2.93 GB/node)
"""
"""Of a job; to be filled in with `job_id`, `state`, `used` and `ratio`."""

BILLED = """\
Job consumed 0.13 CSC billing units based on following used resources
Billed project: project_2001234
CPU usage: 0.11 CPU BU
Mem usage: 0.02 CPU BU
"""
"""What CSC adds to it."""

ALLOCATIONS = f"""\
Data updated: 2026-11-23 16:25:53.167547
Project         |       CPU (used/allocated)|         GPU (used/allocated)|     Storage (used/allocated)
------------------------------------------------------------------------------------------------------
{PROJECT} | 250/1000  (25.0%) core/hours|    12/300   (4.0%) gpu/hours|       5/10  (50.0%) TB/hours
"""

PROJECTS = f"""\
-----------------------------------------------------------------
Project: {PROJECT}        Owner: Maija
Title: "Trees"
Start: 2026-01-01 End: 2027-12-31 Status: open
Billing units      Budget        Used      Remain
-------------      ------        ----      ------
CPU BU:             60000       60020         -20
GPU BU:              1000          30         970
Storage BU:        300000          40      299960
Cloud BU:             400          10         390
Latest resource grant: 2026-01-31
-----------------------------------------------------------------
Project info updated: 2026-11-24 15:12
"""

AREAS = f"""\
Disk area               Capacity(used/max)  Files(used/max)  Cleanup
----------------------------------------------------------------------
Personal home folder

/users/maija                    4.4G/10G         24K/100K        n/a
----------------------------------------------------------------------
Project: {PROJECT} "Trees"

/scratch/{PROJECT}       7.2T*/7.0T       2.7M/5.0M        90d
----------------------------------------------------------------------
"""
