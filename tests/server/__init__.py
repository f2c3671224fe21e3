"""HTTP and the process, on real sockets."""
