"""What operators ask for by the log: snapshots of hosts, and heads of VMs written again."""
