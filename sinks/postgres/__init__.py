"""The PostgreSQL sink: vm.changes and host.changes become current rows and history, exactly once."""
