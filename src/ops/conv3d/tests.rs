//! What the cases of the registry do not reach.
