"""Ray as a cluster: connect, resources, storage check, jobs."""
