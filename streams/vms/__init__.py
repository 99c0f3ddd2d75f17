"""The vms stage: turns evidence of hosts about VMs into the tabled state of every VM and its public changes."""
