"""Outside services, one a module; none of them imports another."""
