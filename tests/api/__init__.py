"""The endpoints, over HTTP on a fake engine."""
