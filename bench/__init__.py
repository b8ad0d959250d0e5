"""The benchmark: what the service costs and how exact it is, beside its peers, on one machine in one run."""
